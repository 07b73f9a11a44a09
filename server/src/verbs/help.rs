//! `godwit completions` and `godwit man`: the command line, told to shells and to `man`, from its own definition.

use std::io::{self, Write};

use clap::CommandFactory;

use super::Exit;
use crate::cli::{Cli, CompletionsArgs, ManArgs};

/// Prints a shell's completions.
pub fn completions(args: &CompletionsArgs, out: &mut dyn Write) -> io::Result<Exit> {
    // Into memory first: the generator panics where it cannot write, as when `head` has closed the pipe.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "godwit", &mut script);
    out.write_all(&script)?;
    Ok(Exit::Ok)
}

/// Writes a page a verb: `godwit.1`, `godwit-admin-explain.1` and so on.
pub fn man(args: &ManArgs) -> io::Result<Exit> {
    std::fs::create_dir_all(&args.dir)?;
    clap_mangen::generate_to(Cli::command(), &args.dir)?;
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    use clap_complete::Shell;

    use super::*;

    #[test]
    fn shells_are_told_every_verb() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let mut script = Vec::new();
            completions(&CompletionsArgs { shell }, &mut script).unwrap();
            let script = String::from_utf8(script).unwrap();
            for verb in ["serve", "explain", "snapshot-rate", "decommission"] {
                assert!(script.contains(verb), "{shell}: {verb}");
            }
        }
    }

    #[test]
    fn each_verb_has_its_page() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("man1");
        man(&ManArgs { dir: dir.clone() }).unwrap();
        for page in [
            "godwit.1",
            "godwit-serve.1",
            "godwit-admin-explain.1",
            "godwit-kv-put.1",
        ] {
            let text = std::fs::read_to_string(dir.join(page)).unwrap();
            assert!(text.contains(".SH NAME"), "{page}");
        }
        let page = std::fs::read_to_string(dir.join("godwit-admin-pause.1")).unwrap();
        assert!(page.contains("Stop what an origin proposes"), "{page}");
    }
}
