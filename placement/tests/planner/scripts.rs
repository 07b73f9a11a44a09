//! Golden scripts: a planner's life told window by window, in `testscripts/planner`.
//!
//! `host ID ZONE`, `rtt A B MICROS`, `shard ID HOST HOST.. [bytes=N]`, `option NAME=VALUE..`, `admit ID STATE` lay the
//! world out; `expect SHARD reads=N [writes=N] ZONE=PPM..` sets the forecast; `step [windows=N]` plans the next
//! window, carries the plan out and prints it; `dry` only prints it; `show` prints homes and voters.

use std::error::Error;
use std::fmt::Write as _;
use std::path::Path;

use goldenscript::{Command, Context, Runner};

use placement::planner::{Hysteresis, Mode, Plan, PlanMemory, SkiRental};
use placement::{Admission, WindowId};

use super::world::{World, zone};

#[test]
fn scripts_read_as_before() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testscripts/planner");
    let mut paths: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    assert!(!paths.is_empty());
    for path in paths {
        let mut story = Story {
            world: World::new(),
            memory: PlanMemory::default(),
        };
        goldenscript::run(&mut story, &path).unwrap();
    }
}

struct Story {
    world: World,
    memory: PlanMemory,
}

impl Runner for Story {
    type Command = Command;

    fn run(&mut self, command: &Command, _: &Context) -> Result<String, Box<dyn Error>> {
        match command.name.as_str() {
            "host" => self.host(command),
            "rtt" => self.rtt(command),
            "shard" => self.shard(command),
            "option" => self.option(command),
            "admit" => self.admit(command),
            "expect" => self.expect(command),
            "step" => self.step(command),
            "dry" => Ok(told(&self.next(self.world.forecast.window.0 + 1))),
            "show" => self.show(),
            name => Err(format!("unknown command {name}").into()),
        }
    }
}

type Output = Result<String, Box<dyn Error>>;

fn word<'a>(args: &mut goldenscript::ArgumentConsumer<'a>) -> Result<&'a str, Box<dyn Error>> {
    args.next_pos().ok_or_else(|| "an argument is missing".into())
}

impl Story {
    fn host(&mut self, command: &Command) -> Output {
        let mut args = command.consume_args();
        self.world.add_host(word(&mut args)?.parse()?, word(&mut args)?);
        Ok(String::new())
    }

    fn rtt(&mut self, command: &Command) -> Output {
        let mut args = command.consume_args();
        let (one, other) = (zone(word(&mut args)?), zone(word(&mut args)?));
        self.world.rtt.insert_both(one, other, word(&mut args)?.parse()?);
        Ok(String::new())
    }

    fn shard(&mut self, command: &Command) -> Output {
        let mut args = command.consume_args();
        let bytes = args.take_key("bytes").unwrap_or("0").parse()?;
        let id = word(&mut args)?.parse()?;
        let mut hosts = Vec::new();
        while let Some(host) = args.next_pos() {
            hosts.push(host.parse()?);
        }
        self.world.add_shard(id, &hosts, bytes);
        Ok(String::new())
    }

    fn option(&mut self, command: &Command) -> Output {
        let mut args = command.consume_args();
        while let Some((name, value)) = args.next_key() {
            match (name, value) {
                ("mode", "homes") => self.world.options.mode = Mode::Homes,
                ("mode", "both") => self.world.options.mode = Mode::HomesAndReplicas,
                ("hysteresis", "none") => self.world.options.hysteresis = Hysteresis::None,
                ("hysteresis", "ski") => {
                    self.world.options.hysteresis = Hysteresis::SkiRental(SkiRental::default());
                }
                ("fair_share_max_ppm", value) => self.world.options.fair_share_max_ppm = Some(value.parse()?),
                ("home_move_micros", value) => self.world.costs.home_move_micros = value.parse()?,
                ("replica_move_micros", value) => self.world.costs.replica_move_micros = value.parse()?,
                _ => return Err(format!("unknown option {name}={value}").into()),
            }
        }
        Ok(String::new())
    }

    fn admit(&mut self, command: &Command) -> Output {
        let mut args = command.consume_args();
        let id = word(&mut args)?.parse()?;
        self.world.host(id).admission = match word(&mut args)? {
            "open" => Admission::Open,
            "cordoned" => Admission::Cordoned,
            "draining" => Admission::Draining,
            other => return Err(format!("unknown admission {other}").into()),
        };
        Ok(String::new())
    }

    fn expect(&mut self, command: &Command) -> Output {
        let mut args = command.consume_args();
        let id = word(&mut args)?.parse()?;
        let reads = args.take_key("reads").unwrap_or("0").parse()?;
        let writes = args.take_key("writes").unwrap_or("0").parse()?;
        let mut shares = Vec::new();
        while let Some((origin, share)) = args.next_key() {
            shares.push((origin, share.parse()?));
        }
        self.world.expect(id, reads, writes, &shares);
        Ok(String::new())
    }

    fn step(&mut self, command: &Command) -> Output {
        let windows = command
            .consume_args()
            .take_key("windows")
            .unwrap_or("1")
            .parse::<u32>()?;
        let mut output = String::new();
        for _ in 0..windows {
            output += &told(&self.world.step(&mut self.memory));
        }
        Ok(output)
    }

    fn next(&self, window: u64) -> Plan {
        let mut world = self.world.clone();
        world.forecast.window = WindowId(window);
        world.plan(&self.memory)
    }

    fn show(&self) -> Output {
        let mut output = String::new();
        for id in self.world.placement.shards.keys() {
            let voters: Vec<String> = self
                .world
                .voters(id.0)
                .iter()
                .map(|host| format!("h{host}"))
                .collect();
            writeln!(
                output,
                "{id}: home h{}, voters {}",
                self.world.home(id.0),
                voters.join(" ")
            )?;
        }
        Ok(output)
    }
}

fn told(plan: &Plan) -> String {
    let (before, after) = (plan.expected_cost_before_micros, plan.expected_cost_after_micros);
    let mut output = format!("{}: {before} us expected, {after} us as planned\n", plan.window);
    for planned in &plan.proposals {
        output += &format!("  {}: {}\n", planned.shard, planned.text);
    }
    for blocked in &plan.blocked {
        let to = blocked.to.map_or("nowhere".to_owned(), |host| host.to_string());
        output += &format!(
            "  {} stays off {to} ({} us): {:?}\n",
            blocked.shard, blocked.gain_micros, blocked.constraint
        );
    }
    output
}
