//! Proof that the suite bites: every seeded bug is turned on, and something must find it.
//!
//! A bug is looked for by recipes, one after another: simulated schedules of consecutive seeds, then runs against real
//! processes. The first that is no longer ok has caught it. The same recipe with the bug off must be ok, or what was
//! caught is not the bug. The list of bugs, and where they are seeded, is `jepsen/BUGS.md`.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

use crate::simulate::{Campaign, FaultClass};

/// The variable that turns a bug on.
const VARIABLE: &str = "GODWIT_BUG";
/// The profile of the build with bugs: release, with debug assertions.
const PROFILE: &str = "mutant";

/// A way to look for a bug.
#[derive(Clone, Copy, Debug)]
enum Recipe {
    /// Simulated schedules of seed 1 and the following ones.
    Simulate {
        schedules: u64,
        /// The classes of fault; empty: those that the seeds draw.
        faults: &'static [FaultClass],
    },
    /// A run against real processes.
    Run {
        workload: &'static str,
        nemesis: &'static str,
        seconds: u64,
        seed: u64,
    },
}

/// A bug and where it is looked for.
struct Mutant {
    bug: &'static str,
    recipes: &'static [Recipe],
}

const SIMULATED: Recipe = Recipe::Simulate {
    schedules: 60,
    faults: &[],
};

/// For bugs that need rare company: only these faults, and more schedules.
const fn only(faults: &'static [FaultClass]) -> Recipe {
    Recipe::Simulate {
        schedules: 300,
        faults,
    }
}

const fn run(nemesis: &'static str, seconds: u64) -> Recipe {
    Recipe::Run {
        workload: "register,append,set,counter",
        nemesis,
        seconds,
        seed: 7,
    }
}

/// Every bug, cheapest recipe first.
const MUTANTS: [Mutant; 28] = [
    of("B1", &[SIMULATED, run("isolate-leader,pause-leader", 60)]),
    of("B2", &[SIMULATED, only(&[FaultClass::Hold, FaultClass::Slow])]),
    of(
        "B3",
        &[only(&[
            FaultClass::IsolateLeader,
            FaultClass::TransferStorm,
            FaultClass::ClockRates,
        ])],
    ),
    of("B4", &[SIMULATED]),
    of("B5", &[SIMULATED, run("power-cut-all,kill-all", 60)]),
    of("B6", &[SIMULATED]),
    of(
        "B7",
        &[
            SIMULATED,
            only(&[
                FaultClass::StepCrash,
                FaultClass::IsolateLeader,
                FaultClass::OneWay,
            ]),
        ],
    ),
    of("B8", &[SIMULATED, run("kill-leader,reset", 60)]),
    of("B9", &[SIMULATED]),
    of("B10", &[SIMULATED]),
    of("B11", &[SIMULATED]),
    of("B12", &[SIMULATED]),
    of("B13", &[SIMULATED]),
    of("B14", &[SIMULATED]),
    of(
        "B15",
        &[SIMULATED, only(&[FaultClass::StepCrash, FaultClass::Crash])],
    ),
    of("B16", &[SIMULATED]),
    of("B17", &[SIMULATED]),
    of("B18", &[SIMULATED]),
    of(
        "B19",
        &[
            SIMULATED,
            only(&[FaultClass::BitRot, FaultClass::Crash]),
            run("bit-rot,kill-all", 90),
        ],
    ),
    of("B20", &[SIMULATED, run("wipe,isolate-leader", 90)]),
    of("B21", &[SIMULATED]),
    of("B23", &[SIMULATED]),
    of(
        "B24",
        &[
            SIMULATED,
            only(&[FaultClass::Stranger, FaultClass::IsolateLeader]),
        ],
    ),
    of("B25", &[SIMULATED, only(&[FaultClass::IsolateLeader])]),
    of("B26", &[SIMULATED]),
    of(
        "B27",
        &[
            SIMULATED,
            only(&[FaultClass::Hold, FaultClass::Partition, FaultClass::TransferStorm]),
        ],
    ),
    of("B28", &[SIMULATED]),
    of("B29", &[SIMULATED]),
];

const fn of(bug: &'static str, recipes: &'static [Recipe]) -> Mutant {
    Mutant { bug, recipes }
}

/// What came of looking for one bug.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Hunt {
    /// The bug.
    pub bug: String,
    /// Whether something found it, and the same without the bug was ok.
    pub caught: bool,
    /// "simulation" or "processes".
    pub layer: String,
    /// The workloads that ran.
    pub workload: String,
    /// The faults that happened.
    pub nemesis: String,
    /// The seed.
    pub seed: u64,
    /// From the first recipe to the catch.
    pub seconds: f64,
    /// The check that found it, with its first words.
    pub check: String,
    /// The verdict of the same recipe without the bug.
    pub without: String,
}

/// What a recipe came to.
struct Found {
    verdict: String,
    check: String,
    nemesis: String,
}

/// The hunts of one command.
#[derive(Clone, Debug)]
pub struct Hunting {
    program: PathBuf,
    folder: PathBuf,
    jobs: usize,
}

impl Hunting {
    /// With `program`, which must hold the bugs; or, without one, with this workspace's, which is built first.
    /// `folder` takes what runs leave behind.
    ///
    /// # Errors
    /// When the program cannot be built.
    pub fn new(program: Option<PathBuf>, folder: PathBuf, jobs: usize) -> anyhow::Result<Self> {
        let program = match program {
            Some(program) => program,
            None => build()?,
        };
        Ok(Self {
            program,
            folder,
            jobs,
        })
    }

    /// The names of all bugs.
    pub fn bugs() -> impl Iterator<Item = &'static str> {
        MUTANTS.iter().map(|mutant| mutant.bug)
    }

    /// Looks for `bug`.
    ///
    /// # Errors
    /// When there is no such bug, or a process cannot be started.
    pub fn hunt(&self, bug: &str) -> anyhow::Result<Hunt> {
        let mutant = MUTANTS.iter().find(|mutant| mutant.bug == bug);
        let Some(mutant) = mutant else {
            bail!(
                "there is no bug {bug}; known are {:?}",
                Self::bugs().collect::<Vec<_>>()
            );
        };
        let started = Instant::now();
        let mut hunt = Hunt {
            bug: bug.to_owned(),
            ..Hunt::default()
        };
        for recipe in mutant.recipes {
            match recipe {
                Recipe::Simulate { schedules, faults } => self.simulate(&mut hunt, *schedules, faults)?,
                Recipe::Run { .. } => self.run(&mut hunt, *recipe)?,
            }
            if hunt.caught {
                break;
            }
        }
        hunt.seconds = (started.elapsed().as_secs_f64() * 10.0).round() / 10.0;
        Ok(hunt)
    }

    /// Schedules with the bug, some at a time, until one is not ok that is ok without it.
    fn simulate(&self, hunt: &mut Hunt, schedules: u64, faults: &[FaultClass]) -> anyhow::Result<()> {
        let with = self.campaign(Some(&hunt.bug), faults);
        let without = self.campaign(None, faults);
        let seeds: Vec<u64> = (1..=schedules).collect();
        for seeds in seeds.chunks(self.jobs.max(1)) {
            let mut suspects = Vec::new();
            let some = Campaign {
                seeds: seeds.to_vec(),
                ..with.clone()
            };
            some.run(|report, _| {
                if report.verdict == "violation" {
                    suspects.push(report.clone());
                }
            })?;
            for report in suspects {
                let sound = without.one(report.seed)?;
                hunt.layer = "simulation".to_owned();
                hunt.workload = "all".to_owned();
                hunt.nemesis = report.faults.keys().cloned().collect::<Vec<_>>().join(",");
                hunt.seed = report.seed;
                hunt.check = first_words(report.broken.first().map_or("", String::as_str));
                hunt.without.clone_from(&sound.verdict);
                hunt.caught = sound.verdict == "ok";
                if hunt.caught {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn campaign(&self, bug: Option<&str>, faults: &[FaultClass]) -> Campaign {
        Campaign {
            program: self.program.clone(),
            seeds: Vec::new(),
            faults: faults.to_vec(),
            jobs: self.jobs,
            environment: environment(bug),
        }
    }

    fn run(&self, hunt: &mut Hunt, recipe: Recipe) -> anyhow::Result<()> {
        let with = self.run_once(Some(&hunt.bug), recipe)?;
        if with.verdict != "violation" {
            return Ok(());
        }
        let Recipe::Run { workload, seed, .. } = recipe else {
            return Ok(());
        };
        let sound = self.run_once(None, recipe)?;
        hunt.layer = "processes".to_owned();
        hunt.workload = workload.to_owned();
        hunt.nemesis = with.nemesis;
        hunt.seed = seed;
        hunt.check = with.check;
        hunt.caught = sound.verdict == "ok";
        hunt.without = sound.verdict;
        Ok(())
    }

    fn run_once(&self, bug: Option<&str>, recipe: Recipe) -> anyhow::Result<Found> {
        let Recipe::Run {
            workload,
            nemesis,
            seconds,
            seed,
        } = recipe
        else {
            bail!("this recipe is no run");
        };
        let folder = self.folder.join(format!("{}-{seed}", bug.unwrap_or("sound")));
        if folder.exists() {
            std::fs::remove_dir_all(&folder)?;
        }
        let status = Command::new(&self.program)
            .args(["run", "--workload", workload, "--nemesis", nemesis])
            .args(["--seconds", &seconds.to_string(), "--seed", &seed.to_string()])
            .arg("--out")
            .arg(&folder)
            .envs(environment(bug))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status()
            .with_context(|| format!("cannot start {}", self.program.display()))?;
        let verdict = folder.join("verdict.json");
        let Ok(text) = std::fs::read_to_string(&verdict) else {
            // A cluster that does not even start is found, too.
            return Ok(Found {
                verdict: "violation".to_owned(),
                check: format!("the run ended with {status} and left no verdict"),
                nemesis: String::new(),
            });
        };
        let judged: serde_json::Value = serde_json::from_str(&text)?;
        Ok(found_in(&judged))
    }
}

/// What a verdict file says.
fn found_in(judged: &serde_json::Value) -> Found {
    let checks = judged["checks"].as_array().map(Vec::as_slice).unwrap_or_default();
    let broken = checks.iter().find(|check| check["verdict"] == "violation");
    let tally = judged["facts"]["tally"].as_object();
    Found {
        verdict: judged["verdict"].as_str().unwrap_or("unknown").to_owned(),
        check: broken
            .map(|check| {
                let name = check["name"].as_str().unwrap_or_default();
                first_words(&format!(
                    "{name}: {}",
                    check["details"][0].as_str().unwrap_or_default()
                ))
            })
            .unwrap_or_default(),
        nemesis: tally
            .map(|tally| tally.keys().cloned().collect::<Vec<_>>().join(","))
            .unwrap_or_default(),
    }
}

fn first_words(what: &str) -> String {
    const CHARACTERS_MAX: usize = 160;
    let line = what.lines().next().unwrap_or_default();
    line.chars().take(CHARACTERS_MAX).collect()
}

fn environment(bug: Option<&str>) -> Vec<(String, String)> {
    bug.map(|bug| (VARIABLE.to_owned(), bug.to_owned()))
        .into_iter()
        .collect()
}

/// Builds this program once more, with the bugs in it.
fn build() -> anyhow::Result<PathBuf> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("jepsen lies in a workspace")?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(cargo)
        .current_dir(workspace)
        .args([
            "build",
            "--package",
            "jepsen",
            "--features",
            "seeded-bugs",
            "--profile",
            PROFILE,
        ])
        .args(["--message-format", "json-render-diagnostics"])
        .stderr(Stdio::inherit())
        .output()
        .context("cargo cannot be started")?;
    anyhow::ensure!(built.status.success(), "the build with bugs failed");
    let messages = String::from_utf8_lossy(&built.stdout);
    let mut executables = messages.lines().filter_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        let named = message["target"]["name"] == "jepsen";
        named.then(|| message["executable"].as_str().map(PathBuf::from))?
    });
    executables.next_back().context("the build named no program")
}

impl fmt::Display for Hunt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            bug,
            layer,
            seed,
            seconds,
            check,
            without,
            ..
        } = self;
        match self.caught {
            true => write!(f, "{bug}: caught by {layer}, seed {seed}, {seconds} s: {check}"),
            false if check.is_empty() => write!(f, "{bug}: NOT caught in {seconds} s"),
            false => write!(
                f,
                "{bug}: NOT proven in {seconds} s: without the bug seed {seed} is {without}"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_file_tells_what_found_the_bug() {
        let judged = serde_json::json!({
            "verdict": "violation",
            "checks": [
                {"name": "set", "verdict": "ok", "details": []},
                {"name": "replicas", "verdict": "violation", "details": ["shard 1 differs\nmore"]},
            ],
            "facts": {"tally": {"kill-all": 2, "move-home": 3}},
        });
        let found = found_in(&judged);
        assert_eq!(found.verdict, "violation");
        assert_eq!(found.check, "replicas: shard 1 differs");
        assert_eq!(found.nemesis, "kill-all,move-home");
    }

    #[test]
    fn every_bug_has_a_recipe_and_a_name_of_its_own() {
        // A host ends of a name that it does not know, and that would pass for a catch.
        assert!(Hunting::bugs().eq(storage::seeded_bug::ALL));
        assert!(MUTANTS.iter().all(|mutant| !mutant.recipes.is_empty()));
    }
}
