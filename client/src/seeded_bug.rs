//! Seeded bug B23, off unless `GODWIT_BUG` names it: a mistake made on purpose, to show that the tests of consistency
//! find it. Built with the feature `seeded-bugs` only; `jepsen/BUGS.md` has the table.

#[cfg(all(feature = "seeded-bugs", not(debug_assertions)))]
compile_error!(
    "seeded bugs lose data on purpose: they are built with debug assertions only, never for release"
);

/// Whether the bug `name` is turned on.
#[cfg(feature = "seeded-bugs")]
pub(crate) fn is_on(name: &'static str) -> bool {
    static CHOSEN: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    CHOSEN.get_or_init(|| std::env::var("GODWIT_BUG").ok()).as_deref() == Some(name)
}

/// Whether the bug `name` is turned on: never, in this build.
#[cfg(not(feature = "seeded-bugs"))]
pub(crate) const fn is_on(_name: &'static str) -> bool {
    false
}
