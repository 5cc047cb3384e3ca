//! Compares Caskade with a real `redis-server`: the same commands to both, the replies compared byte for
//! byte.
//!
//! [`forms`] has the form of every command and the rule for its replies; [`grammar`] draws valid and invalid
//! commands of a form; [`sequence`] draws sequences and shrinks those that fail; [`pair`] runs them;
//! [`differences`] lists known differences with reasons; [`page`] renders `docs/commands.md`. The test asks
//! the node for its commands and skips those that the node does not have: a new command is compared as soon
//! as the node has it.

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
