//! The `evenkeel` command: parses the arguments, runs the command, and returns its exit code.

use std::process::ExitCode;

use clap::Parser as _;

mod cli;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match cli::Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let exit = cli::Exit::of(&error);
            if exit != cli::Exit::Done {
                eprintln!("evenkeel: {error:#}");
            }
            ExitCode::from(exit as u8)
        }
    }
}
