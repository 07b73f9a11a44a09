//! A run as one page of HTML: what was checked, latencies over time, bands for faults, marks for migrations, below
//! them how many operations ended how at each moment, then the violations.
//!
//! Nothing is loaded from anywhere. A long run is thinned: of each kind and outcome, each sliver of time keeps its
//! slowest operation, so that no peak is lost. Names of faults are written in lanes, so that those which overlap can
//! be told apart.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::events::{Event, Happening};
use crate::history::{Operation, OperationKind, Outcome};
use crate::verdict::Violation;

const WIDTH: f64 = 1_200.0;
const HEIGHT: f64 = 360.0;
const SLIVERS: u64 = 600;
/// The curve of operations a second, and the bins it has.
const CURVE_HEIGHT: f64 = 120.0;
const BINS: u64 = 200;
/// Names of faults stand below one another, in so many lines.
const LANES: usize = 6;
/// Latencies outside of this are drawn at its edges.
const LATENCY_NS: (f64, f64) = (1e4, 1e11);

const STYLE: &str = "body{font:14px sans-serif;margin:2em}svg{border:1px solid #999}\
.get{fill:#2a6fb0}.put{fill:#c2571a}.cas{fill:#7b3fa0}.delete{fill:#555}.append{fill:#2d8a4e}\
.fail{opacity:.35}.info{fill:none;stroke:#c00}.fault{fill:#d33;opacity:.12}.step{stroke:#888;stroke-dasharray:3}\
.wrong{stroke:#c00;stroke-width:2}.healed{stroke:#2d8a4e;stroke-width:2}.rate{fill:none;stroke-width:1.5}\
table{border-collapse:collapse;margin-bottom:1em}td{padding:.1em .8em;border:1px solid #ccc}\
.is-ok{color:#2d8a4e}.is-violation{color:#c00;font-weight:bold}.is-unknown,.is-invalid{color:#c57f00;font-weight:bold}\
text{font-size:11px}pre{background:#f4f4f4;padding:.6em;white-space:pre-wrap}";

/// What a page shows.
#[derive(Clone, Copy, Debug)]
pub struct Page<'a> {
    /// Its title.
    pub title: &'a str,
    /// The operations.
    pub history: &'a [Operation],
    /// Faults and migrations.
    pub events: &'a [Event],
    /// The names of what was checked, each with what was found (`ok`, `violation`, `unknown`, `invalid`).
    pub checks: &'a [(String, String)],
    /// The violations of all checkers.
    pub violations: &'a [Violation],
}

/// The page as HTML.
pub fn render(shown: &Page<'_>) -> String {
    let span = Span::of(shown.history, shown.events);
    let mut page = String::new();
    head(&mut page, shown, &span);
    checks(&mut page, shown.checks);
    latencies(&mut page, shown, &span);
    legend(&mut page);
    rates(&mut page, &span, shown.history);
    violations(&mut page, shown.violations);
    page.push_str("</body></html>\n");
    page
}

fn head(page: &mut String, shown: &Page<'_>, span: &Span) {
    add(
        page,
        format_args!(
            "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>{0}</title><style>{STYLE}</style>\
             </head><body><h1>{0}</h1>\n<p>{1} operations, {2} events, {3} violations, {4:.3} s</p>\n",
            escape(shown.title),
            shown.history.len(),
            shown.events.len(),
            shown.violations.len(),
            (span.end_ns - span.start_ns) as f64 / 1e9,
        ),
    );
}

fn checks(page: &mut String, checks: &[(String, String)]) {
    if checks.is_empty() {
        return;
    }
    page.push_str("<table>");
    for (name, found) in checks {
        let (name, found) = (escape(name), escape(found));
        add(
            page,
            format_args!("<tr><td>{name}</td><td class=\"is-{found}\">{found}</td></tr>\n"),
        );
    }
    page.push_str("</table>\n");
}

fn latencies(page: &mut String, shown: &Page<'_>, span: &Span) {
    add(
        page,
        format_args!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"100%\">\n"),
    );
    faults(page, span, shown.events);
    axis(page);
    operations(page, span, shown.history);
    for event in shown.events {
        match &event.what {
            Happening::MigrationStep {
                migration,
                shard,
                state,
            } => {
                let what = format!("migration {migration} of shard {shard}: {state:?}");
                line(page, "step", span.x(event.at_ns), &what);
            }
            Happening::Healed => line(page, "healed", span.x(event.at_ns), "all faults are over"),
            Happening::FaultStart { .. } | Happening::FaultStop { .. } => {}
        }
    }
    for violation in shown.violations {
        if let Some(at_ns) = violation.at_ns() {
            line(page, "wrong", span.x(at_ns), &violation.what);
        }
    }
    page.push_str("</svg>\n");
}

fn legend(page: &mut String) {
    page.push_str("<p>");
    for kind in OperationKind::ALL {
        let name = kind.name();
        add(
            page,
            format_args!(
                "<svg width=\"10\" height=\"10\"><circle cx=\"5\" cy=\"5\" r=\"4\" class=\"{name}\"/></svg> {name} "
            ),
        );
    }
    page.push_str(
        "&mdash; pale: failed; red ring: unknown; shaded: a fault; dashed: a migration's step; green line: healed; \
         red line: a violation</p>\n",
    );
}

/// Operations a second by when they were called: acknowledged, failed, unknown.
fn rates(page: &mut String, span: &Span, history: &[Operation]) {
    let mut bins: BTreeMap<&str, BTreeMap<u64, u64>> = BTreeMap::new();
    for operation in history {
        let bin = span.share(operation.call_ns(), BINS).min(BINS - 1);
        let bins = bins.entry(class_of(operation)).or_default();
        *bins.entry(bin).or_default() += 1;
    }
    let most = bins
        .values()
        .flat_map(BTreeMap::values)
        .max()
        .copied()
        .unwrap_or(1);
    let bin_s = (span.end_ns - span.start_ns) as f64 / 1e9 / BINS as f64;
    add(
        page,
        format_args!(
            "<h2>Operations a second</h2>\n<svg viewBox=\"0 0 {WIDTH} {CURVE_HEIGHT}\" width=\"100%\">\n\
             <text x=\"4\" y=\"12\">{:.0}/s</text>\n",
            most as f64 / bin_s.max(1e-9)
        ),
    );
    for (class, color) in [("ok", "#2d8a4e"), ("fail", "#999"), ("info", "#c00")] {
        let counts = bins.get(class);
        let height = |bin: u64| counts.and_then(|counts| counts.get(&bin)).copied().unwrap_or(0);
        let points: Vec<String> = (0..BINS)
            .map(|bin| {
                let x = bin as f64 / BINS as f64 * WIDTH;
                format!(
                    "{x:.0},{:.1}",
                    CURVE_HEIGHT * (1.0 - height(bin) as f64 / most as f64)
                )
            })
            .collect();
        add(
            page,
            format_args!(
                "<polyline class=\"rate\" stroke=\"{color}\" points=\"{}\"><title>{class}</title></polyline>\n",
                points.join(" ")
            ),
        );
    }
    page.push_str("</svg>\n<p>green: acknowledged; grey: failed; red: unknown</p>\n");
}

fn violations(page: &mut String, violations: &[Violation]) {
    page.push_str("<h2>Violations</h2>\n");
    if violations.is_empty() {
        page.push_str("<p>None.</p>\n");
    }
    for violation in violations {
        add(
            page,
            format_args!("<pre>{}</pre>\n", escape(&violation.to_string())),
        );
    }
}

fn class_of(operation: &Operation) -> &'static str {
    match operation.action().outcome() {
        Outcome::Ok(()) => "ok",
        Outcome::Fail => "fail",
        Outcome::Info => "info",
    }
}

/// Appends to a string, which cannot fail.
fn add(page: &mut String, what: std::fmt::Arguments<'_>) {
    let _infallible = page.write_fmt(what);
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

struct Span {
    start_ns: u64,
    end_ns: u64,
}

impl Span {
    fn of(history: &[Operation], events: &[Event]) -> Self {
        let ends = history
            .iter()
            .flat_map(|operation| [Some(operation.call_ns()), operation.return_ns()])
            .flatten();
        let times: Vec<u64> = ends.chain(events.iter().map(|event| event.at_ns)).collect();
        let start_ns = times.iter().copied().min().unwrap_or(0);
        Self {
            start_ns,
            end_ns: times.iter().copied().max().unwrap_or(0).max(start_ns + 1),
        }
    }

    fn x(&self, at_ns: u64) -> f64 {
        at_ns.saturating_sub(self.start_ns) as f64 / (self.end_ns - self.start_ns) as f64 * WIDTH
    }

    /// In which of so many equal parts of the time it is.
    fn share(&self, at_ns: u64, parts: u64) -> u64 {
        let share =
            u128::from(at_ns - self.start_ns) * u128::from(parts) / u128::from(self.end_ns - self.start_ns);
        u64::try_from(share).unwrap_or(parts)
    }
}

fn y(latency_ns: u64) -> f64 {
    let (least, most) = LATENCY_NS;
    let share = ((latency_ns as f64).clamp(least, most) / least).log10() / (most / least).log10();
    HEIGHT * (1.0 - share)
}

fn axis(page: &mut String) {
    for (latency_ns, name) in [
        (100_000, "0.1 ms"),
        (1_000_000, "1 ms"),
        (10_000_000, "10 ms"),
        (100_000_000, "100 ms"),
        (1_000_000_000, "1 s"),
        (10_000_000_000, "10 s"),
    ] {
        let at = y(latency_ns);
        add(
            page,
            format_args!(
                "<path d=\"M0 {at:.1}H{WIDTH}\" stroke=\"#ddd\"/><text x=\"4\" y=\"{:.1}\">{name}</text>\n",
                at - 2.0
            ),
        );
    }
}

fn faults(page: &mut String, span: &Span, events: &[Event]) {
    let mut open: BTreeMap<&str, (u64, String)> = BTreeMap::new();
    let mut bands = Vec::new();
    for event in events {
        match &event.what {
            Happening::FaultStart { fault, targets } => {
                open.insert(fault, (event.at_ns, format!("{fault} {}", targets.join(" "))));
            }
            Happening::FaultStop { fault } => {
                bands.extend(
                    open.remove(fault.as_str())
                        .map(|(from, name)| (from, event.at_ns, name)),
                );
            }
            Happening::MigrationStep { .. } | Happening::Healed => {}
        }
    }
    bands.extend(open.into_values().map(|(from, name)| (from, span.end_ns, name)));
    bands.sort();
    for (at, (from, to, name)) in bands.into_iter().enumerate() {
        let (left, right) = (span.x(from), span.x(to));
        let lane = 12 * (1 + at % LANES);
        add(
            page,
            format_args!(
                "<rect class=\"fault\" x=\"{left:.1}\" width=\"{:.1}\" height=\"{HEIGHT}\"><title>{1}</title></rect>\
                 <text x=\"{left:.1}\" y=\"{lane}\">{1}</text>\n",
                right - left,
                escape(&name)
            ),
        );
    }
}

fn operations(page: &mut String, span: &Span, history: &[Operation]) {
    let mut slowest: BTreeMap<(u64, OperationKind, &str), (u64, u64)> = BTreeMap::new();
    for operation in history {
        let class = class_of(operation);
        let call_ns = operation.call_ns();
        let latency_ns = operation.return_ns().unwrap_or(span.end_ns) - call_ns;
        let key = (span.share(call_ns, SLIVERS), operation.action().kind(), class);
        let kept = slowest.entry(key).or_insert((latency_ns, call_ns));
        *kept = (*kept).max((latency_ns, call_ns));
    }
    for ((_, kind, class), (latency_ns, call_ns)) in slowest {
        let (cx, cy, name) = (span.x(call_ns), y(latency_ns), kind.name());
        add(
            page,
            format_args!("<circle class=\"{name} {class}\" cx=\"{cx:.1}\" cy=\"{cy:.1}\" r=\"2\"/>\n"),
        );
    }
}

fn line(page: &mut String, class: &str, x: f64, what: &str) {
    let what = escape(what);
    add(
        page,
        format_args!("<path class=\"{class}\" d=\"M{x:.1} 0V{HEIGHT}\"><title>{what}</title></path>\n"),
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::MigrationState;
    use crate::generate::{Recipe, generate};
    use crate::linearizability::{Bounds, check};
    use crate::testing::{get, put};

    #[test]
    fn a_page_shows_all_and_loads_nothing() {
        let mut history = generate(Recipe::default(), 1);
        history.extend([put("<k>", "a", 1, 2), get("<k>", None, 3, 4)]);
        let events = [
            Event {
                at_ns: 5,
                what: Happening::FaultStart {
                    fault: "pause".to_owned(),
                    targets: vec!["h1".to_owned()],
                },
            },
            Event {
                at_ns: 9,
                what: Happening::MigrationStep {
                    migration: 1,
                    shard: 2,
                    state: MigrationState::Switching,
                },
            },
            Event {
                at_ns: 90,
                what: Happening::FaultStop {
                    fault: "pause".to_owned(),
                },
            },
        ];
        let verdict = check(&history, Bounds::default());
        let page = render(&Page {
            title: "a & b",
            history: &history,
            events: &events,
            checks: &[("linearizability".to_owned(), "violation".to_owned())],
            violations: verdict.violations(),
        });
        for wanted in [
            "a &amp; b",
            "class=\"fault\"",
            "pause h1",
            "migration 1 of shard 2: Switching",
            "class=\"wrong\"",
            "class=\"rate\"",
            "<td class=\"is-violation\">",
            "key &lt;k&gt;",
        ] {
            assert!(page.contains(wanted), "{wanted}");
        }
        assert!(!page.contains("http") && !page.contains("src=") && !page.contains("<k>"));
    }

    #[test]
    fn a_long_run_stays_small() {
        let history = generate(
            Recipe {
                operations: 50_000,
                ..Recipe::default()
            },
            1,
        );
        let page_of = |history: &[Operation]| {
            render(&Page {
                title: "t",
                history,
                events: &[],
                checks: &[],
                violations: &[],
            })
        };
        assert!(page_of(&history).len() < 1_500_000);
        assert!(page_of(&[]).contains("None."));
    }
}
