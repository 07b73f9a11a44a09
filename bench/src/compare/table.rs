//! Rows for the terminal.

use std::fmt;

use comfy_table::Table;

use super::{Report, Row};

pub(super) const COLUMNS: [&str; 13] = [
    "workload",
    "clients",
    "keys",
    "value",
    "path",
    "shards",
    "conns",
    "godwit/s",
    "peer/s",
    "ratio",
    "p50 us",
    "p99 us",
    "cpu us/op",
];

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} beside {}", self.version, self.peer_version)?;
        let mut table = Table::new();
        table.load_style(comfy_table::presets::NOTHING);
        table.set_header(COLUMNS);
        for row in &self.rows {
            table.add_row(row.cells());
        }
        writeln!(f, "{table}")?;
        writeln!(f, "latencies and processor time: godwit's / the peer's")
    }
}

impl Row {
    pub(super) fn cells(&self) -> Vec<String> {
        let pair = |own: f64, peer: f64| format!("{own:.0} / {peer:.0}");
        let clients = match self.per_s {
            Some(per_s) => format!("{per_s:.0}/s"),
            None => self.clients.to_string(),
        };
        vec![
            format!("{:?}", self.workload),
            clients,
            format!("{:?}", self.keys),
            self.value_bytes.to_string(),
            format!("{:?}", self.path),
            self.shards.to_string(),
            format!("{} / {}", self.connections, self.peer_connections),
            format!("{:.0}", self.godwit.ops_s),
            format!("{:.0}", self.peer.ops_s),
            format!(
                "{:.2} ({:.2} to {:.2})",
                self.ratio, self.ratio_min, self.ratio_max
            ),
            pair(self.godwit.p50_us, self.peer.p50_us),
            pair(self.godwit.p99_us, self.peer.p99_us),
            pair(self.godwit.cpu_s_per_op * 1e6, self.peer.cpu_s_per_op * 1e6),
        ]
    }
}
