//! The report as one HTML page.
//!
//! Noisy windows are smoothed for the eye: where a slice has many, a line is the mean over a few windows,
//! and the caption says so. The tables above hold the figures themselves.

use crate::config::PolicyName;

use super::html::{document, escape, list, section, table};
use super::plot::{Bar, Mark, Series, bars, lines};
use super::table::{POLICY_COLUMNS, millis, percent, policy_texts};
use super::{DemoReport, PolicyResult, WindowPoint};

/// Lines with more points than this are smoothed.
const POINTS_MAX: usize = 60;
const X_LABELS_MAX: u64 = 10;
const HOUR_MS: u64 = 60 * 60 * 1_000;

/// Renders the page. It needs no network and runs no script.
pub fn render_page(report: &DemoReport) -> String {
    let title = format!("Godwit demo: {}", report.details.settings.trace);
    let body = [
        format!(
            "<h1>{}</h1>\n<p>{}</p>\n",
            escape(&title),
            escape(&settings(report))
        ),
        section("What came out", &(list(&report.findings()) + &policies(report))),
        section("Policies", &summary_bars(report)),
        section("Window by window", &windows(report)),
        section("Moves", &moves(report)),
        section("Head-room, from the trace alone", &head_room(report)),
        section("To judge the figures", &list(&report.details.notes)),
    ]
    .concat();
    document(&title, &body)
}

fn settings(report: &DemoReport) -> String {
    let settings = &report.details.settings;
    format!(
        "{} days of {} in windows of {:.1} h, {} shards of {} replicas on {} hosts, seed {}, {} operations.",
        settings.days,
        settings.trace,
        settings.window_ms as f64 / HOUR_MS as f64,
        settings.shards,
        settings.replication_factor,
        settings.hosts,
        settings.seed,
        report.ops
    )
}

fn policies(report: &DemoReport) -> String {
    let row = |(policy, result)| policy_texts(policy, result).to_vec();
    let rows: Vec<Vec<String>> = report.policies.iter().map(row).collect();
    let legend = "<p class=\"small\">Local: accesses served in the client's zone. RTT: mean emulated round trip of an \
                  access. Latencies in ms. Moves: replicas moved. Homes: home moves. Moved: data sent to new \
                  replicas.</p>\n";
    table(&POLICY_COLUMNS, &rows) + legend
}

fn summary_bars(report: &DemoReport) -> String {
    let bar_of = |value: fn(&PolicyResult) -> f64, label: fn(f64) -> String| -> Vec<Bar> {
        let bar = |(policy, result): (PolicyName, &PolicyResult)| {
            let value = value(result);
            Bar {
                name: policy.to_string(),
                colour: colour(policy),
                value,
                label: label(value),
            }
        };
        report.policies.iter().map(bar).collect()
    };
    let mark = |value: fn(&super::HeadRoom) -> f64| {
        report.optimum().map(|optimum| Mark {
            name: optimum.name.clone(),
            value: value(optimum),
        })
    };
    let local = bar_of(
        |result| 100.0 * result.local_access_ratio,
        |value| format!("{value:.1}"),
    );
    let rtt = bar_of(
        |result| result.rtt_mean_us / 1_000.0,
        |value| format!("{value:.2}"),
    );
    let local_mark = mark(|optimum| 100.0 * optimum.local_access_ratio);
    let rtt_mark = mark(|optimum| optimum.rtt_mean_us / 1_000.0);
    bars(
        "Accesses served in the client's zone",
        "%, higher is better",
        &local,
        local_mark.as_ref(),
    ) + &bars(
        "Mean round trip of an access",
        "ms, lower is better",
        &rtt,
        rtt_mark.as_ref(),
    )
}

fn windows(report: &DemoReport) -> String {
    let labels = x_labels(report);
    if labels.is_empty() {
        return String::new();
    }
    let span = labels.len().div_ceil(POINTS_MAX);
    let smoothed = if span > 1 {
        format!(", mean of {span} windows")
    } else {
        String::new()
    };
    let plot = |title: &str, unit: &str, value: fn(&WindowPoint) -> Option<f64>| {
        let line = |(policy, points): (PolicyName, &Vec<WindowPoint>)| Series {
            name: policy.to_string(),
            colour: colour(policy),
            values: means(&points.iter().map(value).collect::<Vec<_>>(), span),
        };
        let series: Vec<Series> = report.details.windows.iter().map(line).collect();
        let labels: Vec<String> = labels.chunks(span).map(<[String]>::concat).collect();
        lines(title, &format!("{unit}{smoothed}"), &labels, &series)
    };
    [
        plot("Accesses served in the client's zone", "%", |point| {
            (point.accesses > 0).then(|| 100.0 * point.local_accesses as f64 / point.accesses as f64)
        }),
        plot("Read latency, median", "ms", |point| {
            latency(point, point.read_p50_us)
        }),
        plot("Read latency, 99th percentile", "ms", |point| {
            latency(point, point.read_p99_us)
        }),
        plot("Write latency, 99th percentile", "ms", |point| {
            latency(point, point.write_p99_us)
        }),
        plot("Home moves", "moves a window", |point| {
            Some(point.home_moves as f64)
        }),
    ]
    .concat()
}

fn latency(point: &WindowPoint, micros: u64) -> Option<f64> {
    (point.accesses > 0).then(|| micros as f64 / 1_000.0)
}

/// Names for some windows: days, or in a short slice quarters of days, since the slice's start.
fn x_labels(report: &DemoReport) -> Vec<String> {
    let longest = report
        .details
        .windows
        .iter()
        .map(|(_, points)| points)
        .max_by_key(|points| points.len());
    let Some([first, .., last]) = longest.map(Vec::as_slice) else {
        return Vec::new();
    };
    let hour = |point: &WindowPoint| point.starts_at_ms.saturating_sub(first.starts_at_ms) / HOUR_MS;
    let days = hour(last) / 24 + 1;
    let every = if days > 2 {
        24 * days.div_ceil(X_LABELS_MAX)
    } else {
        6
    };
    let label = |point: &WindowPoint| match hour(point) {
        hour if !hour.is_multiple_of(every) => String::new(),
        hour if days > 2 => format!("day {}", hour / 24 + 1),
        hour => format!("day {} {:02} h", hour / 24 + 1, hour % 24),
    };
    longest.into_iter().flatten().map(label).collect()
}

/// The means of consecutive runs of `span` values, of those there are.
fn means(values: &[Option<f64>], span: usize) -> Vec<Option<f64>> {
    let mean = |run: &[Option<f64>]| {
        let known: Vec<f64> = run.iter().copied().flatten().collect();
        (!known.is_empty()).then(|| known.iter().sum::<f64>() / known.len() as f64)
    };
    values.chunks(span.max(1)).map(mean).collect()
}

fn moves(report: &DemoReport) -> String {
    let mut findings = Vec::new();
    if let Some(pauses) = report.details.home_move_pauses {
        findings.push(format!(
            "{} home moves held up the writes of their shard for {} ms at the median and {} ms at the longest, \
             beyond the emulated round trip.",
            pauses.count,
            millis(pauses.p50_us as f64),
            millis(pauses.max_us as f64)
        ));
    }
    if let Some(moves) = report.details.replica_moves {
        findings.push(format!(
            "During {} replica moves the 99th percentile of the shard's latency was {:.2} times the one before.",
            moves.count, moves.p99_ratio
        ));
    }
    list(&findings)
}

fn head_room(report: &DemoReport) -> String {
    let row = |rule: &super::HeadRoom| {
        vec![
            rule.name.clone(),
            percent(rule.local_access_ratio),
            millis(rule.rtt_mean_us),
        ]
    };
    let rows: Vec<Vec<String>> = report.details.head_room.iter().map(row).collect();
    if rows.is_empty() {
        String::new()
    } else {
        table(&["rule", "local accesses", "mean RTT ms"], &rows)
    }
}

/// A policy has the same colour in every plot and every report.
fn colour(policy: PolicyName) -> usize {
    PolicyName::ALL
        .iter()
        .position(|known| *known == policy)
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::figures::tests::sample;

    #[test]
    fn the_page_stands_alone_and_shows_every_policy() {
        let page = render_page(&sample());
        for outside in ["http://", "https://", "<script", "src=", "@import", "url("] {
            assert!(!page.contains(outside), "{outside}");
        }
        for policy in PolicyName::ALL {
            // A table row, two bars with a tooltip each, five lines with a legend entry and a tooltip each.
            assert!(page.matches(policy.as_str()).count() >= 15, "{policy}");
        }
        assert_eq!(page.matches("<svg").count(), 7);
        assert_eq!(page.matches("<path").count(), 30);
        assert!(page.contains("none lost") && page.contains("31.00 ms at the median"));
    }

    #[test]
    fn texts_from_outside_are_escaped() {
        let mut report = sample();
        report.details.settings.trace = "<script>alert(1)</script>".into();
        report.details.notes = vec!["a < b & c".into()];
        report.details.head_room[1].name = "<b>\"oracle\"".into();
        let page = render_page(&report);
        assert!(!page.contains("<script>") && !page.contains("<b>"));
        assert!(page.contains("a &lt; b &amp; c") && page.contains("&lt;b&gt;&quot;oracle&quot;"));
    }

    #[test]
    fn parts_without_figures_are_left_out() {
        let report = DemoReport {
            ops: 0,
            lost_writes: 0,
            errors: 0,
            policies: Default::default(),
            details: Default::default(),
        };
        let page = render_page(&report);
        assert!(
            !page.contains("Window by window") && !page.contains("Head-room") && !page.contains("<h2>Moves")
        );
        assert!(page.contains("What came out"));
    }

    #[test]
    fn long_slices_are_smoothed_and_gaps_stay_gaps() {
        let values = [Some(1.0), Some(3.0), None, Some(4.0), None, None, Some(6.0)];
        assert_eq!(means(&values, 2), [Some(2.0), Some(4.0), None, Some(6.0)]);
        assert_eq!(means(&values, 1), values);
        let mut report = sample();
        let point = |hour| WindowPoint {
            starts_at_ms: hour * HOUR_MS,
            accesses: 1,
            ..Default::default()
        };
        let week: Vec<WindowPoint> = (0..168).map(point).collect();
        report.details.windows.insert(PolicyName::StaticHash, week);
        let page = render_page(&report);
        assert!(page.contains("mean of 3 windows") && !page.contains(" h</text>"));
        assert!((1..=7).all(|day| page.contains(&format!(">day {day}</text>"))));
    }
}
