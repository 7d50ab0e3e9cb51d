//! `completion`: the scripts by which shells complete, and the answer to their question what can follow. kubectl asks the same
//! (`kubectl_complete-gridstake`), so that all of them complete alike.
//!
//! Not clap_complete: its script for bash completes nothing after a command where the executable's name has a hyphen
//! (clap-rs/clap#6421).

use clap::{Arg, Command, CommandFactory as _};

use crate::{
    Told,
    cli::{Cli, CompletedShell},
};

/// The end of an answer, for kubectl: what follows is not to be completed by names of files.
const NO_FILES: &str = ":4";

/// The script for `shell`.
pub fn script(shell: CompletedShell) -> Told {
    let script = match shell {
        CompletedShell::Bash => include_str!("bash.sh"),
        CompletedShell::Zsh => include_str!("zsh.zsh"),
        CompletedShell::Fish => include_str!("fish.fish"),
    };
    Told {
        result: script.trim_end().to_owned(),
        note: None,
    }
}

/// The answer to a shell or kubectl, which asks with the words after the executable's name, of which the last one is to be
/// completed.
pub fn answer(words: &[String]) -> Told {
    let mut lines = candidates(&Cli::command(), words);
    lines.push(NO_FILES.to_owned());
    Told {
        result: lines.join("\n"),
        note: None,
    }
}

/// What the last one of `words` can become: a value of the flag before it, a flag, or a command, each with its help.
fn candidates(command: &Command, words: &[String]) -> Vec<String> {
    let Some((last, before)) = words.split_last() else {
        return candidates(command, &[String::new()]);
    };
    let mut command = command;
    for word in before {
        command = command.find_subcommand(word).unwrap_or(command);
    }
    let flag = before.last().and_then(|word| flag(command, word));
    let all: Vec<(String, Option<String>)> = if let Some(flag) = flag {
        values(flag)
    } else if last.starts_with('-') {
        command
            .get_arguments()
            .filter(|arg| !arg.is_hide_set())
            .filter_map(|arg| Some((format!("--{}", arg.get_long()?), help(arg.get_help()))))
            .collect()
    } else {
        command
            .get_subcommands()
            .filter(|sub| !sub.is_hide_set())
            .map(|sub| (sub.get_name().to_owned(), help(sub.get_about())))
            .chain(command.get_positionals().flat_map(values))
            .collect()
    };
    all.into_iter()
        .filter(|(name, _)| name.starts_with(last.as_str()))
        .map(|(name, help)| match help {
            Some(help) => format!("{name}\t{help}"),
            None => name,
        })
        .collect()
}

/// The flag that `word` is, if it takes a value.
fn flag<'a>(command: &'a Command, word: &str) -> Option<&'a Arg> {
    let is = |arg: &&Arg| {
        let short = arg.get_short().map(|short| format!("-{short}"));
        let long = arg.get_long().map(|long| format!("--{long}"));
        [short, long].iter().flatten().any(|name| name == word)
    };
    command
        .get_arguments()
        .find(is)
        .filter(|arg| arg.get_action().takes_values())
}

/// The values that an argument can have, where they are known.
fn values(arg: &Arg) -> Vec<(String, Option<String>)> {
    arg.get_possible_values()
        .iter()
        .map(|value| (value.get_name().to_owned(), help(value.get_help())))
        .collect()
}

/// The first line of a help.
fn help(text: Option<&clap::builder::StyledStr>) -> Option<String> {
    let text = text?.to_string();
    text.lines().next().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names(line: &str) -> Vec<String> {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        candidates(&Cli::command(), &words)
            .into_iter()
            .map(|line| line.split('\t').next().unwrap().to_owned())
            .collect()
    }

    #[test]
    fn kubectl_is_told_commands_flags_and_values() {
        assert!(names("").contains(&"explain".to_owned()));
        assert!(!names("").contains(&"__complete".to_owned()));
        assert_eq!(names("dr"), ["drain"]);
        assert_eq!(names("explain "), ["job", "node", "incident"]);
        assert_eq!(names("explain j"), ["job"]);
        assert_eq!(names("explain job --out"), ["--output"]);
        assert_eq!(names("explain job train -o "), ["table", "json", "yaml"]);
        assert_eq!(names("top --output j"), ["json"]);
        assert_eq!(names("completion "), ["bash", "zsh", "fish"]);
        assert_eq!(names("drain n1 --wait "), [""; 0]);
        assert_eq!(names("register "), ["provider", "payer"]);
        assert_eq!(names("unstake --with"), ["--withdraw"]);
        assert_eq!(names("report -o c"), ["csv"]);
        assert_eq!(names("quote --usd"), ["--usd-per-token"]);
    }

    #[test]
    fn an_answer_ends_by_saying_that_files_are_not_meant() {
        let told = answer(&["dra".to_owned()]);
        let lines: Vec<&str> = told.result.lines().collect();
        assert_eq!(lines.len(), 2);
        assert!(lines[0].starts_with("drain\tTakes a node off the market"));
        assert_eq!(lines[1], ":4");
        assert!(answer(&[]).result.contains("explain\t"));
    }

    #[test]
    fn bash_completes_what_the_program_answers() {
        let script = script(CompletedShell::Bash).result;
        let try_it = r#"
            kubectl-gridstake() { local IFS=' '; printf '%s\tits help\n' "asked for $*"; echo :4; }
            COMP_WORDS=(kubectl-gridstake explain jo) COMP_CWORD=2
            _kubectl_gridstake
            printf '%s\n' "${COMPREPLY[@]}"
        "#;
        let output = std::process::Command::new("bash")
            .args(["-c", &format!("{script}\n{try_it}")])
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&output.stdout);
        assert_eq!(told, "asked for __complete explain jo\n", "{output:?}");
    }

    #[test]
    fn each_shell_gets_a_script_that_asks_the_program() {
        for shell in [
            CompletedShell::Bash,
            CompletedShell::Zsh,
            CompletedShell::Fish,
        ] {
            let script = script(shell).result;
            assert!(script.contains("kubectl-gridstake __complete"), "{shell:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_stands_on_the_command_line_is_answered(words in prop::collection::vec(".{0,8}", 0..5)) {
            prop_assert!(answer(&words).result.ends_with(":4"));
        }
    }
}
