//! Caskade and a real `redis-server` side by side: the same commands to both, their replies compared byte for byte.
//!
//! [`forms`] has the form of every command and the rule its replies are compared by; [`grammar`] draws commands of a
//! form, right and wrong ones; [`sequence`] makes sequences of them and shrinks those that fail; [`pair`] runs them;
//! [`differences`] lists what is known to differ, and why; [`page`] renders `docs/commands.md`. Commands that the node
//! does not have are left out by asking it: one that it gets is compared from then on.

pub mod catalog;
pub mod compare;
pub mod described;
pub mod differences;
pub mod forms;
pub mod grammar;
pub mod page;
pub mod pair;
pub mod reference;
pub mod reply;
pub mod sequence;
pub mod split;
pub mod wire;
