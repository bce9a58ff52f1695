//! The `synth` subcommand.

use std::{fs::File, io, path::PathBuf, time::Duration};

use anyhow::Context;
use clap::{Args, ValueEnum};
use evenkeel_loadtest::workload::{conversations, synth, trace};

/// What a synthetic trace is like.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(crate) enum Kind {
    /// Prompts of 1,150 tokens without shared text, as the Azure trace; CSV
    #[default]
    Azure,
    /// Prompts of 12,000 tokens that share their beginnings, as Mooncake's conversation trace; JSON lines
    Conversations,
}

#[derive(Debug, Args)]
pub(crate) struct SynthArgs {
    /// What the trace is like
    #[arg(long, value_enum, default_value_t)]
    kind: Kind,
    /// Output file (default: standard output)
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Seed; the same seed yields the same trace
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Duration of the trace, in seconds
    #[arg(long, default_value = "3500", value_parser = super::seconds)]
    duration: Duration,
    /// Mean requests per second (default: that of the original)
    #[arg(long, value_parser = super::above_zero)]
    rate: Option<f64>,
}

pub(crate) fn run(args: &SynthArgs) -> anyhow::Result<()> {
    let workload = match args.kind {
        Kind::Azure => synth::generate(args.seed, args.duration, args.rate.unwrap_or(synth::RATE_RPS)),
        Kind::Conversations => {
            let rate = args.rate.unwrap_or(conversations::RATE_RPS);
            conversations::generate(args.seed, args.duration, rate)
        }
    };
    match &args.out {
        None => trace::write(&workload, io::BufWriter::new(io::stdout().lock()))?,
        Some(path) => {
            let file = File::create(path).with_context(|| format!("creating {}", path.display()))?;
            trace::write(&workload, io::BufWriter::new(file))?;
            let s = workload.summary();
            println!(
                "{}: {} requests in {:.0} s with a mean of {:.0} prompt and {:.0} output tokens",
                path.display(),
                s.requests,
                s.duration_s,
                s.prompt_mean,
                s.output_mean
            );
        }
    }
    Ok(())
}
