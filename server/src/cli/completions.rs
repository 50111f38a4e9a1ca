//! `tenure completions`: a script that teaches a shell the commands and options.

use clap::{Args, ValueEnum};
use clap_complete::Shell;

use super::failure::Outcome;

/// Print a completion script for a shell
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tenure completions bash > ~/.local/share/bash-completion/completions/tenure
  tenure completions zsh > ~/.zfunc/_tenure
  tenure completions fish > ~/.config/fish/completions/tenure.fish")]
pub(crate) struct Completions {
    /// The shell
    #[arg(value_enum)]
    shell: Known,
}

/// The shells whose scripts are looked after.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Known {
    Bash,
    Zsh,
    Fish,
}

impl Completions {
    pub(crate) fn run(&self, mut tree: clap::Command) -> Outcome {
        let shell = match self.shell {
            Known::Bash => Shell::Bash,
            Known::Zsh => Shell::Zsh,
            Known::Fish => Shell::Fish,
        };
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut tree, "tenure", &mut script);
        std::io::Write::write_all(&mut std::io::stdout(), &script)?;
        Ok(())
    }
}
