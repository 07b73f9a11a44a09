//! The report as one HTML page: for each trace and cost of a move the policies' costs as bars, and all figures.

use server::report::html::{document, escape, section, table};
use server::report::plot::{Bar, Mark, bars};

use super::row::PolicyRow;
use super::system::SystemRow;
use super::table::{FORECAST_COLUMNS, POLICY_COLUMNS, SYSTEM_COLUMNS};
use super::{ForecastRow, PlacementReport};

const COLOURS: usize = 6;

/// Renders the page. It needs no network and runs no script.
pub fn render_page(report: &PlacementReport) -> String {
    let verdicts = report.verdict.head_room.iter().map(ToString::to_string);
    let verdicts = verdicts.chain(report.verdict.comparisons.iter().map(ToString::to_string));
    let verdicts = verdicts.chain(report.system_verdicts.iter().map(ToString::to_string));
    let verdicts: String = verdicts
        .map(|line| format!("<li>{}</li>\n", escape(&line)))
        .collect();
    let forecasts: Vec<Vec<String>> = report.forecasts.iter().map(ForecastRow::cells).collect();
    let policies: Vec<Vec<String>> = report.policies.iter().map(PolicyRow::cells).collect();
    let system: Vec<Vec<String>> = report.system.iter().map(SystemRow::cells).collect();
    let content = format!(
        "<h1>Placement on access traces</h1>\n<p>Cost: remote accesses and what moves cost, by access. Policies see \
         windows that have ended, and a decision serves the window after the next.</p>\n<ul>{verdicts}</ul>\n{}{}{}{}",
        plots(report),
        section("The whole system", &table(&SYSTEM_COLUMNS, &system)),
        section("Forecasters", &table(&FORECAST_COLUMNS, &forecasts)),
        section("Policies", &table(&POLICY_COLUMNS, &policies)),
    );
    document("Placement on access traces", &content)
}

/// A plot for each cut and cost, in the order of the rows.
fn plots(report: &PlacementReport) -> String {
    let mut groups: Vec<Vec<&PolicyRow>> = Vec::new();
    for row in &report.policies {
        match groups.last_mut() {
            Some(group) if same_plot(group[0], row) => group.push(row),
            _ => groups.push(vec![row]),
        }
    }
    groups.iter().map(|group| plot(group)).collect()
}

fn same_plot(one: &PolicyRow, other: &PolicyRow) -> bool {
    one.trace == other.trace
        && (one.window_h, one.map) == (other.window_h, other.map)
        && one.move_cost == other.move_cost
}

fn plot(rows: &[&PolicyRow]) -> String {
    let (first, optimum) = (rows[0], rows.iter().find(|row| row.policy == "optimum"));
    let drawn: Vec<Bar> = rows
        .iter()
        .filter(|row| row.policy != "optimum")
        .enumerate()
        .map(|(at, row)| Bar {
            name: row.policy.clone(),
            colour: at % COLOURS,
            value: row.cost.mean,
            label: format!("{:.4} ±{:.4}", row.cost.mean, row.cost.half_width),
        })
        .collect();
    let mark = optimum.map(|row| Mark {
        name: "optimum, knowing the future".to_owned(),
        value: row.cost.mean,
    });
    let title = format!(
        "{}, windows of {} h, {} map, a move costs {}",
        first.trace,
        first.window_h,
        first.map.name(),
        first.move_cost
    );
    section(
        &title,
        &bars(
            "Cost",
            "remote accesses and moves, by access",
            &drawn,
            mark.as_ref(),
        ),
    )
}
