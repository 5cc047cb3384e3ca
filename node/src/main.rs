//! `caskd`: one Caskade node. All of it is in the library, so that it is compiled once.

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    caskade_node::program::main()
}
