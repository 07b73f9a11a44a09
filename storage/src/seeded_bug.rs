//! Seeded bugs: mistakes made on purpose, to show that the tests of consistency find them.
//!
//! A build with the feature `seeded-bugs` holds all of them; the variable `GODWIT_BUG` turns one of them on for the
//! process, and without it nothing differs. A build without the feature holds none: [`is_on`] is the constant false
//! and the branch behind it is not compiled. A release build with the feature does not compile at all.
//!
//! `jepsen/BUGS.md` says what each bug is, where it sits and what should find it.

#[cfg(all(feature = "seeded-bugs", not(debug_assertions)))]
compile_error!(
    "seeded bugs lose data on purpose: they are built with debug assertions only, never for release"
);

/// The variable that names the one bug of the process.
pub const VARIABLE: &str = "GODWIT_BUG";

/// Every bug that some crate holds, in a build that holds them.
pub const ALL: [&str; 28] = [
    "B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B9", "B10", "B11", "B12", "B13", "B14", "B15", "B16",
    "B17", "B18", "B19", "B20", "B21", "B23", "B24", "B25", "B26", "B27", "B28", "B29",
];

/// Whether the bug `name` is turned on.
#[cfg(feature = "seeded-bugs")]
pub fn is_on(name: &'static str) -> bool {
    chosen() == Some(name)
}

/// Whether the bug `name` is turned on: never, in this build.
#[cfg(not(feature = "seeded-bugs"))]
#[inline(always)]
pub const fn is_on(_name: &'static str) -> bool {
    false
}

/// The bug that is turned on, if one is. Panics when the variable names none that is known, so that a misspelt name
/// does not pass for a run in which nothing was found.
#[cfg(feature = "seeded-bugs")]
pub fn chosen() -> Option<&'static str> {
    static CHOSEN: std::sync::OnceLock<Option<&'static str>> = std::sync::OnceLock::new();
    *CHOSEN.get_or_init(|| {
        let wanted = std::env::var(VARIABLE).ok().filter(|wanted| !wanted.is_empty())?;
        let known = ALL.into_iter().find(|known| *known == wanted);
        assert!(
            known.is_some(),
            "{VARIABLE}={wanted} is no seeded bug; there are {ALL:?}"
        );
        known
    })
}

/// The bug that is turned on: none, in this build.
#[cfg(not(feature = "seeded-bugs"))]
pub const fn chosen() -> Option<&'static str> {
    None
}
