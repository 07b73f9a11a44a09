//! The hosts to play on: CSV with the columns `host,zone,region,lat,lon,capacity_bytes`.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;

use ml::{ZoneMap, ZoneMapError};
use serde::Deserialize;

/// Hosts at most.
const HOSTS_MAX: usize = 10_000;

/// A host that may hold replicas.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(crate) struct Site {
    /// Its name, for people.
    pub(crate) host: String,
    /// Its fault domain.
    pub(crate) zone: String,
    /// The group of zones it lies in.
    pub(crate) region: String,
    /// Latitude of the zone in degrees.
    pub(crate) lat: f64,
    /// Longitude of the zone in degrees.
    pub(crate) lon: f64,
    /// Bytes it offers to shards.
    pub(crate) capacity_bytes: u64,
}

/// What is wrong with the hosts.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HostsError {
    #[error("line {line}: {reason}")]
    Line { line: u64, reason: String },
    #[error("there are no hosts, or more than {HOSTS_MAX}")]
    Count,
    #[error(transparent)]
    Zones(#[from] ZoneMapError),
}

/// Reads the hosts, and where their zones lie. Every zone is an origin of its own name.
pub(crate) fn read_hosts(reader: impl Read) -> Result<(Vec<Site>, ZoneMap), HostsError> {
    let mut sites: Vec<Site> = Vec::new();
    for (line, site) in (2..).zip(csv::Reader::from_reader(reader).deserialize::<Site>()) {
        sites.push(site.map_err(|e| HostsError::Line {
            line,
            reason: e.to_string(),
        })?);
    }
    if sites.is_empty() || sites.len() > HOSTS_MAX {
        return Err(HostsError::Count);
    }
    let zones = ZoneMap::read(zone_lines(&sites).as_slice())?;
    Ok((sites, zones))
}

/// The zones as a zone file has them. A zone in two places is told by the reader of zone files.
fn zone_lines(sites: &[Site]) -> Vec<u8> {
    let mut written = BTreeSet::new();
    let mut csv = csv::Writer::from_writer(Vec::new());
    let mut names: BTreeMap<&str, u32> = BTreeMap::new();
    csv.write_record(["origin", "zone", "region", "lat", "lon"])
        .expect("memory takes it");
    for site in sites {
        let place = (&site.zone, &site.region, site.lat.to_bits(), site.lon.to_bits());
        if !written.insert(place) {
            continue;
        }
        // A second place of a zone has another origin, so that it is the place which is refused.
        let number = names.entry(&site.zone).or_default();
        let origin = match *number {
            0 => site.zone.clone(),
            number => format!("{} {number}", site.zone),
        };
        *number += 1;
        let (lat, lon) = (site.lat.to_string(), site.lon.to_string());
        csv.write_record([&origin, &site.zone, &site.region, &lat, &lon])
            .expect("memory takes it");
    }
    csv.into_inner().expect("memory takes it")
}

#[cfg(test)]
mod tests {
    use placement::Zone;

    use super::*;

    const HEAD: &str = "host,zone,region,lat,lon,capacity_bytes\n";

    #[test]
    fn hosts_share_zones_and_zones_have_one_place() {
        let text = format!("{HEAD}h1,a,east,1.5,2,100\nh2,a,east,1.5,2,200\nh3,b,west,1.5,40,300\n");
        let (sites, zones) = read_hosts(text.as_bytes()).unwrap();
        assert_eq!((sites.len(), sites[1].capacity_bytes), (3, 200));
        assert_eq!(zones.zones(), [Zone::from("a"), Zone::from("b")]);
        assert_eq!(zones.zone_of("b"), Some(&Zone::from("b")));
        let apart = format!("{HEAD}h1,a,east,1,2,100\nh2,a,east,1,3,200\n");
        assert!(matches!(read_hosts(apart.as_bytes()), Err(HostsError::Zones(_))));
        assert!(matches!(read_hosts(HEAD.as_bytes()), Err(HostsError::Count)));
        let lacks = format!("{HEAD}h1,a,east,1,2,many\n");
        assert!(matches!(
            read_hosts(lacks.as_bytes()),
            Err(HostsError::Line { line: 2, .. })
        ));
    }
}
