//! Compiles the C sources that are embedded in this program.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

const FAULTS_SOURCE: &str = include_str!("../../native/faults.c");
const SWITCH_SOURCE: &str = include_str!("../../native/switch.c");

/// Warnings are for who changes the sources: a compiler of another year must not keep a run from starting.
const FLAGS: [&str; 2] = ["-O2", "-pthread"];

/// What a source becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Artifact {
    /// A library to preload.
    Library,
    /// A program to run.
    Program,
}

/// Compiles `native/faults.c`, the library for `LD_PRELOAD`, into `folder`, which is made if it is missing.
///
/// # Errors
/// When there is no C compiler, or it refuses the source: its complaints are in the error.
pub fn compile_faults(folder: &Path) -> anyhow::Result<PathBuf> {
    compile(FAULTS_SOURCE, "faults", Artifact::Library, folder)
}

/// Compiles the program of `native/switch.c` into `folder`, which is made if it is missing.
///
/// # Errors
/// See [`compile_faults`].
pub fn compile_switch(folder: &Path) -> anyhow::Result<PathBuf> {
    compile(SWITCH_SOURCE, "switch", Artifact::Program, folder)
}

/// The C compiler: `CC` of the environment, or else `cc`.
///
/// # Errors
/// When it cannot be started.
pub fn compiler() -> anyhow::Result<String> {
    let name = env::var("CC").ok().filter(|name| !name.trim().is_empty());
    let name = name.unwrap_or_else(|| "cc".to_owned());
    let (program, arguments) = split(&name);
    let answer = Command::new(program).args(arguments).arg("--version").output();
    match answer {
        Ok(output) if output.status.success() => Ok(name),
        Ok(output) => bail!("the C compiler {name} answers --version with {}", output.status),
        Err(error) => bail!("no C compiler: {name} cannot be started ({error}); install one or set CC"),
    }
}

/// Compiles one source to `folder`/`name`, with `.c` and `.so` added, and answers where the result lies.
///
/// # Errors
/// When there is no C compiler, it refuses the source, or the folder cannot be written.
pub fn compile(source: &str, name: &str, artifact: Artifact, folder: &Path) -> anyhow::Result<PathBuf> {
    let compiler = compiler()?;
    fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    let written = folder.join(format!("{name}.c"));
    fs::write(&written, source).with_context(|| format!("write {}", written.display()))?;
    let (shape, output): (&[&str], PathBuf) = match artifact {
        Artifact::Library => (
            &["-shared", "-fPIC", "-fvisibility=hidden"],
            folder.join(format!("{name}.so")),
        ),
        Artifact::Program => (&[], folder.join(name)),
    };
    let (program, arguments) = split(&compiler);
    let told = Command::new(program)
        .args(arguments)
        .args(FLAGS)
        .args(shape)
        .arg("-o")
        .args([&output, &written])
        .arg("-ldl")
        .output()
        .with_context(|| format!("start {compiler}"))?;
    if !told.status.success() {
        let complaints = String::from_utf8_lossy(&told.stderr);
        bail!("{compiler} refuses {}: {complaints}", written.display());
    }
    Ok(output)
}

/// `CC` may carry arguments, as `ccache cc` or `cc -m64`.
fn split(compiler: &str) -> (&str, impl Iterator<Item = &str>) {
    let mut words = compiler.split_whitespace();
    (words.next().unwrap_or("cc"), words)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::native::testing::{Folder, have_compiler};

    #[test]
    fn a_source_that_is_wrong_is_refused_with_the_compilers_words() {
        if !have_compiler() {
            return;
        }
        let folder = Folder::new();
        let refused = compile(
            "int main(void) { return nothing; }",
            "wrong",
            Artifact::Program,
            folder.path(),
        );
        let words = format!("{:#}", refused.expect_err("compiled"));
        assert!(words.contains("nothing"), "{words}");
    }

    #[test]
    fn both_tools_compile() {
        if !have_compiler() {
            return;
        }
        let folder = Folder::new();
        let faults = compile_faults(folder.path()).expect("compile");
        let switch = compile_switch(folder.path()).expect("compile");
        assert!(faults.is_file() && switch.is_file());
    }
}
