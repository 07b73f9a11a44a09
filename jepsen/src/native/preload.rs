//! The library for one program: compiled, and shown to take hold of it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};

use super::{FaultControl, compile_faults};

/// Compiles the library into `folder` and tries the library on `program`: the path of what to preload.
///
/// A program that is linked statically would start all the same and feel nothing, so what counts is that one start of
/// it, which only asks for its version, maps the control file.
///
/// # Errors
/// When there is no C compiler, or the library does not get into the program. The reason is made to be shown.
pub fn library_for(program: &[String], folder: &Path) -> anyhow::Result<PathBuf> {
    let library = compile_faults(folder)?;
    let folder = folder.canonicalize()?;
    let library = library.canonicalize()?;
    let shown = library.to_str().context("a path that is no text")?;
    ensure!(
        !shown.contains([' ', ':']),
        "{shown}: the loader takes a space or a colon in a path for its end"
    );
    let (first, arguments) = program.split_first().context("no program")?;
    let trial = FaultControl::open(&folder.join("trial"))?;
    Command::new(first)
        .args(arguments)
        .arg("--version")
        .envs(trial.environment(&library, &folder))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .with_context(|| format!("start {first}"))?;
    ensure!(
        trial.counters()?.attached > 0,
        "{first} does not load a library: it is linked statically"
    );
    Ok(library)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::native::testing::{Folder, have_compiler};

    #[test]
    fn only_a_program_that_loads_the_library_has_one() {
        if !have_compiler() {
            return;
        }
        let folder = Folder::new();
        let dynamic = vec!["cat".to_owned()];
        library_for(&dynamic, folder.path()).expect("cat is linked dynamically");

        let source = folder.path().join("static.c");
        std::fs::write(&source, "int main(void) { return 0; }").expect("write");
        let program = folder.path().join("static");
        let linked = Command::new("cc")
            .arg("-static")
            .arg("-o")
            .args([&program, &source])
            .stderr(Stdio::null())
            .status();
        if !linked.is_ok_and(|status| status.success()) {
            println!("skipped: nothing to link statically with");
            return;
        }
        let other = Folder::new();
        let refused = library_for(&[program.display().to_string()], other.path());
        assert!(refused.expect_err("attached").to_string().contains("statically"));
    }
}
