//! Rows as one HTML page: throughput and latency over the number of clients, and all figures.

use std::collections::BTreeSet;

use server::report::html::{document, escape, section, table};
use server::report::plot::{Series, lines};

use super::table::COLUMNS;
use super::{Report, Row};
use crate::peer::Route;
use crate::workload::{Keys, Kind};

/// What all lines of a plot have in common.
type Group = (Kind, Keys, usize, u32);

/// Renders the page. It needs no network and runs no script.
pub fn render_page(report: &Report) -> String {
    let groups: BTreeSet<Group> = report.rows.iter().map(group_of).collect();
    let plots: String = groups.iter().map(|group| plots(report, *group)).collect();
    let rows: Vec<Vec<String>> = report.rows.iter().map(Row::cells).collect();
    let content = format!(
        "<h1>godwit beside etcd</h1>\n<p>{} and {}, three hosts each on one machine, syncs on; both in turns, each with \
         its best number of connections. Latencies and processor time: godwit's / the peer's.</p>\n{plots}{}",
        escape(&report.version),
        escape(&report.peer_version),
        section("All figures", &table(&COLUMNS, &rows))
    );
    document("godwit beside etcd", &content)
}

fn group_of(row: &Row) -> Group {
    (row.workload, row.keys, row.value_bytes, row.shards)
}

fn plots(report: &Report, group: Group) -> String {
    let (kind, keys, value_bytes, shards) = group;
    let closed = report
        .rows
        .iter()
        .filter(|row| group_of(row) == group && row.per_s.is_none());
    let rows: Vec<&Row> = closed.collect();
    let clients: Vec<usize> = rows
        .iter()
        .map(|row| row.clients)
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect();
    let routes: BTreeSet<Route> = rows.iter().map(|row| row.path).collect();
    let plot = |title: &str, unit: &str, own: fn(&Row) -> f64, peer: fn(&Row) -> f64| {
        let series_of = |route: Route, name: String, colour: usize, value: fn(&Row) -> f64| {
            let at = |clients: &usize| {
                rows.iter()
                    .find(|row| row.clients == *clients && row.path == route)
            };
            Series {
                name,
                colour,
                values: clients
                    .iter()
                    .map(|clients| at(clients).map(|row| value(row)))
                    .collect(),
            }
        };
        let ours = routes.iter().enumerate();
        let mut series: Vec<Series> = ours
            .map(|(colour, route)| {
                series_of(*route, format!("godwit, {route:?}").to_lowercase(), colour, own)
            })
            .collect();
        series.extend(
            routes
                .first()
                .map(|route| series_of(*route, "etcd".to_owned(), routes.len(), peer)),
        );
        let labels: Vec<String> = clients
            .iter()
            .map(|clients| format!("{clients} clients"))
            .collect();
        lines(title, unit, &labels, &series)
    };
    let drawn = plot(
        "Throughput",
        "operations a second",
        |row| row.godwit.ops_s,
        |row| row.peer.ops_s,
    ) + &plot(
        "Latency, 99th percentile",
        "ms",
        |row| row.godwit.p99_us / 1e3,
        |row| row.peer.p99_us / 1e3,
    );
    let title = format!("{kind:?}, {keys:?} keys, values of {value_bytes} bytes, {shards} shards");
    section(&title, &drawn)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::{Cell, Outcome};
    use crate::load::Pace;

    #[test]
    fn a_page_holds_plots_and_figures() {
        let cell = Cell {
            kind: Kind::Put,
            keys: Keys::Uniform,
            pace: Pace::Closed { clients: 16 },
        };
        let nothing = Outcome::of(&[]);
        let row = Row::of(&cell, &nothing, &nothing);
        let report = Report {
            peer_version: "<etcd>".to_owned(),
            rows: vec![row],
            ..Report::default()
        };
        let page = render_page(&report);
        assert!(page.contains("16 clients") && page.contains("<svg"), "{page}");
        assert!(page.contains("&lt;etcd&gt;") && !page.contains("<etcd>"));
    }
}
