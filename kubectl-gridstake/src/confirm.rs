//! Asks before anything is done by which money or work is at stake.

use std::io::{BufRead as _, IsTerminal as _, Write as _};

use crate::error::PluginError;

/// Asks `question` on the terminal; anything but yes is an error, which begins with `nothing`, such as "nothing is written".
/// With `yes` nobody is asked.
pub fn ask(question: &str, yes: bool, nothing: &str) -> Result<(), PluginError> {
    if yes {
        return Ok(());
    }
    let input = std::io::stdin();
    if !input.is_terminal() {
        return Err(PluginError::Unfit(format!(
            "{nothing}: {question} Say --yes, since there is no terminal on which to ask"
        )));
    }
    let mut out = std::io::stderr();
    let mut answer = String::new();
    write!(out, "{question} [y/N] ")
        .and_then(|()| out.flush())
        .and_then(|()| input.lock().read_line(&mut answer))
        .map_err(PluginError::Terminal)?;
    if is_yes(&answer) {
        Ok(())
    } else {
        Err(PluginError::Unfit(format!(
            "{nothing}: it was not confirmed"
        )))
    }
}

fn is_yes(answer: &str) -> bool {
    matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_yes_is_yes() {
        for yes in ["y", "Y\n", "yes\n", " YES "] {
            assert!(is_yes(yes), "{yes}");
        }
        for no in ["", "\n", "n", "no", "yess", "ja", "1"] {
            assert!(!is_yes(no), "{no}");
        }
    }

    #[test]
    fn who_has_said_yes_is_not_asked() {
        assert!(ask("Do it?", true, "nothing is done").is_ok());
    }
}
