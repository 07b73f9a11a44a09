//! Where the origins of an access log lie: each origin's zone, each zone's region and coordinates.
//!
//! The file is CSV with the header `origin,zone,region,lat,lon`; the coordinates are the zone's, in degrees, and every
//! origin of a zone repeats them. A round trip within a zone takes 0.5 ms; between zones 1 ms and 1 ms more for each
//! 100 km of great circle. These are the study's assumptions, not measurements.
//!
//! Must hold: an origin has one zone, a zone one region and one place.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use placement::Zone;
use serde::{Deserialize, Serialize};
use thiserror::Error;

const RTT_WITHIN_MICROS: u64 = 500;
const RTT_BASE_MICROS: f64 = 1000.0;
const RTT_MICROS_PER_KM: f64 = 10.0;
const EARTH_RADIUS_KM: f64 = 6371.0;

/// A zone's region and place.
#[derive(Clone, Debug, PartialEq)]
pub struct ZoneSite {
    /// The region it belongs to.
    pub region: String,
    /// Latitude in degrees.
    pub lat: f64,
    /// Longitude in degrees.
    pub lon: f64,
}

/// Why a zone file cannot be used.
#[derive(Debug, Error)]
pub enum ZoneMapError {
    /// A line that is no mapping.
    #[error("line {line} of the zone file: {reason}")]
    Line {
        /// Its number, counted from 1, the header included.
        line: u64,
        /// What is wrong with it.
        reason: String,
    },
}

/// Why there is no mapping in a file.
#[derive(Debug, Error)]
pub enum ZoneFileError {
    /// It cannot be opened.
    #[error("{}: cannot be read: {source}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It makes no sense.
    #[error("{}: {source}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// Where and how.
        source: ZoneMapError,
    },
}

/// The mapping of origins to zones, and the zones' places.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ZoneMap {
    origins: BTreeMap<String, Zone>,
    sites: BTreeMap<Zone, ZoneSite>,
}

#[derive(Serialize, Deserialize)]
struct Line {
    origin: String,
    zone: String,
    region: String,
    lat: f64,
    lon: f64,
}

#[derive(Deserialize)]
struct Place {
    origin: String,
    lat: f64,
    lon: f64,
}

impl ZoneMap {
    /// Reads the zone file at `path`.
    ///
    /// # Errors
    /// When it cannot be read; the error names it.
    pub fn open(path: &Path) -> Result<Self, ZoneFileError> {
        let file = File::open(path).map_err(|source| ZoneFileError::Open {
            path: path.to_owned(),
            source,
        })?;
        Self::read(file).map_err(|source| ZoneFileError::Content {
            path: path.to_owned(),
            source,
        })
    }

    /// Reads a zone file.
    pub fn read(reader: impl Read) -> Result<Self, ZoneMapError> {
        let mut map = Self::default();
        let mut csv = csv::Reader::from_reader(reader);
        for (at, line) in csv.deserialize::<Line>().enumerate() {
            let line_number = at as u64 + 2;
            let failed = |reason| ZoneMapError::Line {
                line: line_number,
                reason,
            };
            map.insert(line.map_err(|error| failed(error.to_string()))?)
                .map_err(failed)?;
        }
        Ok(map)
    }

    /// Reads a file of origins that are zones and regions of their own: CSV with the columns `origin,lat,lon`; further
    /// columns are not read.
    pub fn of_origins(reader: impl Read) -> Result<Self, ZoneMapError> {
        let mut map = Self::default();
        let mut csv = csv::Reader::from_reader(reader);
        for (at, place) in csv.deserialize::<Place>().enumerate() {
            let failed = |reason| ZoneMapError::Line {
                line: at as u64 + 2,
                reason,
            };
            let place = place.map_err(|error| failed(error.to_string()))?;
            map.insert(Line {
                zone: place.origin.clone(),
                region: place.origin.clone(),
                origin: place.origin,
                lat: place.lat,
                lon: place.lon,
            })
            .map_err(failed)?;
        }
        Ok(map)
    }

    /// Writes a zone file: what [`ZoneMap::read`] reads.
    ///
    /// # Errors
    /// When the writer takes no more.
    pub fn write(&self, writer: impl Write) -> std::io::Result<()> {
        let mut csv = csv::Writer::from_writer(writer);
        for (origin, zone) in &self.origins {
            let site = &self.sites[zone];
            csv.serialize(Line {
                origin: origin.clone(),
                zone: zone.0.clone(),
                region: site.region.clone(),
                lat: site.lat,
                lon: site.lon,
            })?;
        }
        csv.flush()
    }

    fn insert(&mut self, line: Line) -> Result<(), String> {
        let zone = Zone(line.zone);
        let site = ZoneSite {
            region: line.region,
            lat: line.lat,
            lon: line.lon,
        };
        if self.sites.get(&zone).is_some_and(|known| *known != site) {
            return Err(format!(
                "zone {:?} is given another region or place than before",
                zone.0
            ));
        }
        if self.origins.contains_key(&line.origin) {
            return Err(format!("origin {:?} is mapped twice", line.origin));
        }
        self.sites.insert(zone.clone(), site);
        self.origins.insert(line.origin, zone);
        Ok(())
    }

    /// The zone of an origin, if the file names it.
    pub fn zone_of(&self, origin: &str) -> Option<&Zone> {
        self.origins.get(origin)
    }

    /// All zones, in order of their names.
    pub fn zones(&self) -> Vec<Zone> {
        self.sites.keys().cloned().collect()
    }

    /// A zone's region and place.
    pub fn site(&self, zone: &Zone) -> Option<&ZoneSite> {
        self.sites.get(zone)
    }

    /// The round trip between two zones in microseconds; `None` if either is unknown.
    pub fn rtt_micros(&self, from: &Zone, to: &Zone) -> Option<u64> {
        let (a, b) = (self.sites.get(from)?, self.sites.get(to)?);
        if from == to {
            return Some(RTT_WITHIN_MICROS);
        }
        Some((RTT_BASE_MICROS + RTT_MICROS_PER_KM * great_circle_km(a, b)).round() as u64)
    }

    /// The round trips between all zones in the order of [`ZoneMap::zones`], row by row, in microseconds.
    pub fn rtt_matrix_micros(&self) -> Vec<Vec<u64>> {
        let row = |from| {
            self.sites
                .keys()
                .filter_map(|to| self.rtt_micros(from, to))
                .collect()
        };
        self.sites.keys().map(row).collect()
    }
}

/// The haversine formula.
fn great_circle_km(a: &ZoneSite, b: &ZoneSite) -> f64 {
    let (lat_a, lat_b) = (a.lat.to_radians(), b.lat.to_radians());
    let (half_lat, half_lon) = ((lat_b - lat_a) / 2.0, (b.lon - a.lon).to_radians() / 2.0);
    let chord = half_lat.sin().powi(2) + lat_a.cos() * lat_b.cos() * half_lon.sin().powi(2);
    2.0 * EARTH_RADIUS_KM * chord.sqrt().asin()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "origin,zone,region,lat,lon\newr,a,east,40.6925,-74.1687\njfk,a,east,40.6925,-74.1687\n\
                        r1,b,west,35.2593,-120.9358\n";

    #[test]
    fn round_trips_follow_the_rule() {
        let map = ZoneMap::read(TEXT.as_bytes()).unwrap();
        let (a, b) = (Zone("a".into()), Zone("b".into()));
        assert_eq!(map.rtt_micros(&a, &a), Some(500));
        let far = map.rtt_micros(&a, &b).unwrap();
        assert!((41_000..42_500).contains(&far), "{far}");
        assert_eq!(map.rtt_matrix_micros(), vec![vec![500, far], vec![far, 500]]);
        assert_eq!(map.zone_of("jfk"), Some(&a));
        assert_eq!(map.zone_of("r9"), None);
    }

    #[test]
    fn a_missing_zone_file_is_named() {
        let error = ZoneMap::open(Path::new("/nonexistent/zones.csv")).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/zones.csv"), "{error}");
    }

    #[test]
    fn what_is_written_is_read_again() {
        let map = ZoneMap::read(TEXT.as_bytes()).unwrap();
        let mut written = Vec::new();
        map.write(&mut written).unwrap();
        assert_eq!(ZoneMap::read(written.as_slice()).unwrap(), map);
    }

    #[test]
    fn origins_may_be_zones_of_their_own() {
        let text = "origin,lat,lon,more\nb,0,0,x y\na,0,1,z\n";
        let map = ZoneMap::of_origins(text.as_bytes()).unwrap();
        assert_eq!(map.zones(), [Zone::from("a"), Zone::from("b")]);
        assert_eq!(map.zone_of("a"), Some(&Zone::from("a")));
        assert_eq!(map.site(&Zone::from("b")).unwrap().region, "b");
    }

    #[test]
    fn an_origin_mapped_twice_is_refused_with_its_line() {
        let text = format!("{TEXT}ewr,b,west,35.2593,-120.9358\n");
        let error = ZoneMap::read(text.as_bytes()).unwrap_err().to_string();
        assert_eq!(error, "line 5 of the zone file: origin \"ewr\" is mapped twice");
    }

    #[test]
    fn a_zone_in_two_places_is_refused() {
        let text = format!("{TEXT}lga,b,west,1.0,2.0\n");
        assert!(ZoneMap::read(text.as_bytes()).is_err());
    }
}
