//! Reading a fault as the command line gives it.

use std::str::FromStr;

use super::{Fault, HELP};

/// `nvmlClocksEventReason*` bits by the names that the command takes.
const CLOCK_EVENT_REASONS: &[(&str, u64)] = &[
    ("sw-power-cap", 0x4),
    ("hw-slowdown", 0x8),
    ("sync-boost", 0x10),
    ("sw-thermal", 0x20),
    ("hw-thermal", 0x40),
    ("hw-power-brake", 0x80),
];

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (text, None),
        };
        let needs =
            |example: &str| value.ok_or_else(|| format!("{name} needs a value, like {example}"));
        let number = |example: &str| {
            needs(example)?.parse::<u64>().map_err(|_| {
                format!(
                    "{text:?} has no whole number after the equals sign; write it like {example}"
                )
            })
        };
        let small = |example: &str| {
            u32::try_from(number(example)?)
                .map_err(|_| format!("{text:?} is too large; write it like {example}"))
        };
        let call = |example: &str| {
            needs(example)?
                .split_once(':')
                .filter(|(symbol, _)| {
                    *symbol == "*" || symbol.starts_with("nvml") || symbol.starts_with("cu")
                })
                .map(|(symbol, value)| (symbol.to_owned(), value))
                .ok_or_else(|| format!("{text:?} names no function of NVML or of the driver; write it like {example}"))
        };
        let fault = match name {
            "lost" => match value {
                None => Self::Lost { silently: false },
                Some("silently") => Self::Lost { silently: true },
                Some(_) => return Err(format!("{text:?}: write lost or lost=silently")),
            },
            "recovered" => Self::Recovered,
            "xid" => Self::Xid(number("xid=79")?),
            "ecc" => Self::EccUncorrected(number("ecc=2")?),
            "ecc-corrected" => Self::EccCorrected(number("ecc-corrected=40")?),
            "remapped-rows" => Self::RemappedRows(number("remapped-rows=1")?),
            "remap-pending" => Self::RemapPending,
            "remap-failed" => Self::RemapFailed,
            "slowdown" => Self::Slowdown(clock_event_reasons(needs("slowdown=hw-thermal")?)?),
            "temperature" => Self::Temperature(small("temperature=92")?),
            "load" => load(needs("load=50,20")?)?,
            "speed" => match small("speed=50")? {
                percent @ 1..=100 => Self::Speed(percent),
                _ => return Err(format!("{text:?} is no percentage from 1 to 100")),
            },
            "wrong-results" => Self::WrongResults,
            "energy-reset" => Self::EnergyReset,
            "mig" => Self::Mig(mig_layout(needs("mig=3,-,3")?)?),
            "accounting" => match needs("accounting=on")? {
                "on" => Self::Accounting(true),
                "off" => Self::Accounting(false),
                _ => return Err(format!("{text:?}: write accounting=on or accounting=off")),
            },
            "error" => {
                let (symbol, code) = call("error=nvmlDeviceGetMemoryInfo_v2:UNKNOWN")?;
                Self::Error(symbol, code.parse()?)
            }
            "delay" => {
                const EXAMPLE: &str = "delay=nvmlDeviceGetUtilizationRates:500";
                let (symbol, milliseconds) = call(EXAMPLE)?;
                let milliseconds = milliseconds.parse().map_err(|_| {
                    format!("{text:?} has no milliseconds; write it like {EXAMPLE}")
                })?;
                Self::Delay(symbol, milliseconds)
            }
            _ => return Err(format!("unknown fault {name:?}\n{HELP}")),
        };
        Ok(fault)
    }
}

fn clock_event_reasons(text: &str) -> Result<u64, String> {
    text.split(',').try_fold(0, |bits, reason| {
        let known = CLOCK_EVENT_REASONS.iter().find(|(name, _)| *name == reason);
        known.map(|(_, bit)| bits | bit).ok_or_else(|| {
            let names: Vec<_> = CLOCK_EVENT_REASONS.iter().map(|(name, _)| *name).collect();
            format!(
                "unknown slowdown {reason:?}; known are {}",
                names.join(", ")
            )
        })
    })
}

fn load(text: &str) -> Result<Fault, String> {
    let percent = |text: &str| {
        text.parse()
            .ok()
            .filter(|percent| *percent <= 100)
            .ok_or_else(|| format!("{text:?} is no percentage from 0 to 100"))
    };
    match text.split_once(',') {
        None => Ok(Fault::Load {
            gpu: percent(text)?,
            memory: None,
        }),
        Some((gpu, memory)) => Ok(Fault::Load {
            gpu: percent(gpu)?,
            memory: Some(percent(memory)?),
        }),
    }
}

fn mig_layout(text: &str) -> Result<Option<Vec<u32>>, String> {
    if text == "off" {
        return Ok(None);
    }
    let slices = |part: &str| match part {
        "-" => Ok(0),
        "1" | "2" | "3" | "4" | "7" => part.parse().map_err(|_| String::new()),
        _ => Err(format!(
            "{part:?} is no number of MIG slices (1, 2, 3, 4, 7, or - for none)"
        )),
    };
    let layout: Vec<u32> = text.split(',').map(slices).collect::<Result<_, _>>()?;
    let sum: u32 = layout.iter().sum();
    if sum > 7 {
        return Err(format!("{text:?} needs {sum} slices; a GPU has 7"));
    }
    Ok(Some(layout))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_of_the_help_is_understood() {
        for line in HELP
            .lines()
            .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        {
            let example = line
                .split_whitespace()
                .next()
                .unwrap()
                .replace("[,...]", "")
                .replace("[,MEMORY]", ",20")
                .replace("GPU", "50")
                .replace("N,-,N,...", "3,-,3")
                .replace("=N", "=1")
                .replace("=C", "=90")
                .replace("PERCENT", "50")
                .replace("REASON", "hw-thermal")
                .replace("on|off", "on")
                .replace("SYMBOL:CODE", "nvmlInit_v2:UNKNOWN")
                .replace("SYMBOL:MS", "*:10");
            let parsed = example.parse::<Fault>();
            assert!(parsed.is_ok(), "{example}: {parsed:?}");
        }
    }

    #[test]
    fn a_fault_that_is_not_understood_says_what_would_be_right() {
        for (text, expected) in [
            ("xid", "xid=79"),
            ("xid=x", "xid=79"),
            ("error=Foo:1", "nvmlDeviceGetMemoryInfo_v2"),
            ("error=nvmlInit_v2:NOPE", "NOPE"),
            ("slowdown=cold", "hw-thermal"),
            ("mig=3,3,3", "7"),
            ("mig=5", "1, 2, 3, 4, 7"),
            ("load=101", "100"),
            ("speed=0", "1 to 100"),
            ("gone", "lost"),
        ] {
            let error = text.parse::<Fault>().unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
