//! `evenkeel completion` and `evenkeel man`: print the files that packagers install with the program.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, CommandFactory as _};
use clap_complete::Shell;
use clap_mangen::Man;

use super::{
    Cli,
    exit::{Exit, Fault},
    output::put,
};

/// Print a completion script.
#[derive(Args)]
#[command(after_help = "\
Examples:
  evenkeel completion bash > /usr/share/bash-completion/completions/evenkeel
  evenkeel completion zsh > /usr/share/zsh/site-functions/_evenkeel
  evenkeel completion fish > ~/.config/fish/completions/evenkeel.fish
  source <(evenkeel completion bash)        # for this shell only")]
pub(crate) struct Completion {
    /// The shell
    shell: Shell,
}

/// Print a manual page.
#[derive(Args)]
#[command(after_help = "\
Examples:
  evenkeel man | man -l -
  evenkeel man quota set | man -l -
  evenkeel man --dir /usr/share/man/man1    # one page for each command")]
pub(crate) struct Manual {
    /// The command, such as `quota set`; if omitted, prints the page of evenkeel itself
    #[arg(value_name = "COMMAND", conflicts_with = "dir")]
    of: Vec<String>,
    /// Write the pages of all commands into this directory, which must exist
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

impl Completion {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "evenkeel", &mut script);
        Ok(put(&String::from_utf8_lossy(&script))?)
    }
}

impl Manual {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let mut root = Cli::command();
        if let Some(dir) = self.dir {
            let cannot = || format!("--dir: cannot write into {}", dir.display());
            return clap_mangen::generate_to(root, &dir).with_context(cannot);
        }
        // Pages have full names, such as evenkeel-quota-set(1).
        root.build();
        let mut command = &root;
        for word in &self.of {
            command = command.find_subcommand(word).ok_or_else(|| {
                Fault::error(Exit::Usage, format!("{} has no command {word:?}", command.get_name()))
            })?;
        }
        let mut page = Vec::new();
        Man::new(command.clone()).render(&mut page).context("cannot write the page")?;
        Ok(put(&String::from_utf8_lossy(&page))?)
    }
}
