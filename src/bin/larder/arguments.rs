//! What can be typed on the command line, and the engine's options that it means.

use crate::bench_cases::Case;
use crate::units::parse_size;
use clap::{Args, Parser, Subcommand, ValueEnum};
use larder::dtype::KvType;
use larder::options::{AreaMode, Device, Options};
use std::path::{Path, PathBuf};

/// Run language models inside a memory plan that is known before anything is loaded.
#[derive(Parser)]
#[command(name = "larder", version, arg_required_else_help = true, after_help = EXAMPLES)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "\
Examples:
  larder plan model.gguf                         what it would take, to the byte; loads nothing
  larder plan model.gguf --svg area.svg          and a picture of the compute area
  larder plan --device cuda --config config.json the plan on a GPU, by the configuration alone
  larder run model.gguf -p 'Why is the sky blue?'
  larder run model.gguf -p 'Once upon a time' --raw --temperature 0.8 --top-p 0.95
  larder run model.gguf -p - < question.txt      the prompt from standard input
  larder run model.gguf -p Hello --memory-limit 512M --area short
  larder bench model.gguf -p 512 -n 64 -r 5      tokens per second, medians of 5 rounds
  larder bench model.gguf -c 'first 2064 2048'   time to the first token behind a cached prefix

MODEL is a .gguf file (of a split model the first part), or a folder with config.json and *.safetensors.";

#[derive(Subcommand)]
pub enum Command {
    /// Tell how many bytes an engine would take, and why; nothing is loaded
    Plan(PlanArguments),
    /// Generate text from a prompt, with the speed and the memory at the end
    Run(Box<RunArguments>),
    /// Measure prefill, decode, and the time to the first token
    Bench(BenchArguments),
}

#[derive(Args)]
pub struct PlanArguments {
    /// Draw who lies where in the compute area over one layer and the head
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
    #[command(flatten)]
    pub engine: EngineArguments,
}

#[derive(Args)]
pub struct RunArguments {
    /// What to answer or, with --raw, to continue; - reads standard input
    #[arg(short, long, value_name = "TEXT")]
    pub prompt: String,
    /// A system message for the chat template
    #[arg(long, value_name = "TEXT", conflicts_with = "raw")]
    pub system: Option<String>,
    /// Take the prompt as it is, without the model's chat template
    #[arg(long)]
    pub raw: bool,
    /// Tokens to generate at most
    #[arg(short = 'n', long, value_name = "N", default_value_t = 512)]
    pub max_tokens: u32,
    /// End the answer at this text, which is not printed; may be given several times
    #[arg(long, value_name = "TEXT")]
    pub stop: Vec<String>,
    #[command(flatten)]
    pub sampling: SamplingArguments,
    #[command(flatten)]
    pub engine: EngineArguments,
}

#[derive(Args)]
#[command(next_help_heading = "Sampling")]
pub struct SamplingArguments {
    /// Randomness: 0 always takes the most probable token
    #[arg(long, value_name = "X", default_value_t = 0.0)]
    pub temperature: f32,
    /// Draw from the N most probable tokens only; 0 is off
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub top_k: u32,
    /// Draw from the most probable tokens that together have this probability; 1 is off
    #[arg(long, value_name = "X", default_value_t = 1.0)]
    pub top_p: f32,
    /// Leave out tokens below this share of the most probable one's probability; 0 is off
    #[arg(long, value_name = "X", default_value_t = 0.0)]
    pub min_p: f32,
    /// Make tokens that were there before less probable; 1 is off
    #[arg(long, value_name = "X", default_value_t = 1.0)]
    pub repeat_penalty: f32,
    /// The same seed gives the same text
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
}

#[derive(Args)]
pub struct BenchArguments {
    /// Tokens of the prompt; 0 measures no prefill
    #[arg(short = 'p', long, value_name = "N", default_value_t = 512)]
    pub prompt_tokens: u32,
    /// Tokens to decode; 0 measures no decode
    #[arg(short = 'n', long, value_name = "N", default_value_t = 64)]
    pub new_tokens: u32,
    /// Tokens that each sequence has when decoding begins [default: those of the prompt]
    #[arg(short = 'd', long, value_name = "N")]
    pub depth: Option<u32>,
    /// Sequences that decode together
    #[arg(short = 's', long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..))]
    pub sequences: u32,
    /// Measure this instead: "prefill TOKENS [SEQUENCES]", "decode DEPTH STEPS SEQUENCES", "generate DEPTH STEPS
    /// SEQUENCES" (requests, with tokens drawn), or "first TOKENS CACHED", the time to the first token of a prompt that
    /// is cached in part; may be given several times
    #[arg(short = 'c', long, conflicts_with_all = ["prompt_tokens", "new_tokens", "depth", "sequences"])]
    pub case: Vec<Case>,
    /// Read cases from standard input, run each once as it comes, and answer with a line of JSON
    #[arg(long, conflicts_with_all = ["case", "rounds", "prompt_tokens", "new_tokens", "depth", "sequences"])]
    pub stdin: bool,
    /// Tell everything as lines of JSON
    #[arg(long)]
    pub json: bool,
    /// Rounds, of which the medians are told; one more goes before, to warm up
    #[arg(short = 'r', long, value_name = "N", default_value_t = 5,
          value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: u32,
    #[command(flatten)]
    pub engine: EngineArguments,
}

/// The engine's options.
#[derive(Args)]
#[command(next_help_heading = "Engine")]
pub struct EngineArguments {
    /// A .gguf file, or a folder with config.json and *.safetensors
    #[arg(required_unless_present = "config")]
    pub model: Option<PathBuf>,
    /// Instead of a model its config.json alone, of which a plan can be made
    #[arg(long, value_name = "FILE", conflicts_with = "model")]
    pub config: Option<PathBuf>,
    /// What computes: cpu, cuda, or cuda:N for device number N
    #[arg(long, value_name = "DEVICE", default_value = "cpu", value_parser = parse_device)]
    pub device: Device,
    /// Threads that compute [default: one per physical core]
    #[arg(long, value_name = "N")]
    pub threads: Option<u32>,
    /// Stay below this many bytes, all together; takes 512M or 2G
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub memory_limit: Option<u64>,
    /// How the compute area trades bytes for speed
    #[arg(long, value_enum, default_value_t = Area::Auto)]
    pub area: Area,
    /// How K and V are stored
    #[arg(long, value_enum, default_value_t = Kv::Bf16)]
    pub kv_type: Kv,
    /// Token slots of the KV repo [default: what the limit leaves, or enough for all sequences]
    #[arg(long, value_name = "N")]
    pub total_tokens: Option<u64>,
    /// Tokens that one sequence may have [default: the model's context, without any limit at most 4096]
    #[arg(long, value_name = "N")]
    pub max_sequence_tokens: Option<u32>,
    /// Sequences that may be open at once
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub max_sequences: u32,
    /// Rows of one step: how much of a prompt is computed at once [default: chosen with the area]
    #[arg(long, value_name = "N")]
    pub max_batch_rows: Option<u32>,
    /// Rows of logits that exist at once
    #[arg(long, value_name = "N", default_value_t = 16)]
    pub max_logits_rows: u32,
    /// Compute quantised weights with f32 activations instead of 8-bit ones: slower, closer to the reference
    #[arg(long)]
    pub exact: bool,
}

#[derive(Clone, Copy, ValueEnum)]
pub enum Area {
    /// The smallest area
    Short,
    /// Wide tiles
    Long,
    /// Chosen by the processor's cache and the memory limit
    Auto,
}

#[derive(Clone, Copy, ValueEnum)]
pub enum Kv {
    F32,
    F16,
    Bf16,
    /// On CUDA devices
    Int8,
    /// On CUDA devices
    Fp8,
}

fn parse_device(text: &str) -> Result<Device, String> {
    let index = match text {
        "cpu" => return Ok(Device::Cpu),
        "cuda" => Some(0),
        _ => text.strip_prefix("cuda:").and_then(|index| index.parse().ok()),
    };
    index.map(|index| Device::Cuda { index }).ok_or_else(|| "expected cpu, cuda or cuda:N".into())
}

impl EngineArguments {
    /// What they mean, without hooks.
    pub fn options(&self) -> Options {
        let kv_type = match self.kv_type {
            Kv::F32 => KvType::F32,
            Kv::F16 => KvType::F16,
            Kv::Bf16 => KvType::BF16,
            Kv::Int8 => KvType::Int8,
            Kv::Fp8 => KvType::Fp8,
        };
        Options {
            device: self.device,
            n_threads: self.threads.unwrap_or(0),
            memory_limit_bytes: self.memory_limit.unwrap_or(0),
            total_tokens: self.total_tokens.unwrap_or(0),
            max_sequence_tokens: self.max_sequence_tokens.unwrap_or(0),
            max_sequences: self.max_sequences,
            max_requests: self.max_sequences,
            max_batch_rows: self.max_batch_rows.unwrap_or(0),
            max_logits_rows: self.max_logits_rows,
            k_type: kv_type,
            v_type: kv_type,
            area_mode: match self.area {
                Area::Short => AreaMode::Short,
                Area::Long => AreaMode::Long,
                Area::Auto => AreaMode::Auto,
            },
            exact_activations: self.exact,
            ..Options::default()
        }
    }

    /// The model's path, or that of its configuration.
    pub fn path(&self) -> &Path {
        self.model.as_deref().or(self.config.as_deref()).unwrap_or(Path::new(""))
    }

    /// The model's name for headings.
    pub fn model_name(&self) -> String {
        let name = self.path().file_name().unwrap_or(self.path().as_os_str());
        name.to_string_lossy().into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definitions_agree_with_each_other() {
        Cli::command().debug_assert();
    }

    #[test]
    fn options_are_taken_over() {
        let line = "larder plan m.gguf --memory-limit 2G --area short --kv-type f16 --threads 3";
        let Ok(Cli { command: Command::Plan(plan) }) = Cli::try_parse_from(line.split(' ')) else {
            panic!("{line}")
        };
        let options = plan.engine.options();
        assert_eq!((options.memory_limit_bytes, options.n_threads), (2 << 30, 3));
        assert_eq!((options.k_type, options.area_mode), (KvType::F16, AreaMode::Short));
        let line = "larder plan --config c.json --device cuda:1 --kv-type fp8";
        let Ok(Cli { command: Command::Plan(plan) }) = Cli::try_parse_from(line.split(' ')) else {
            panic!("{line}")
        };
        let options = plan.engine.options();
        assert_eq!((options.device, options.k_type), (Device::Cuda { index: 1 }, KvType::Fp8));
        assert_eq!(plan.engine.path(), Path::new("c.json"));
        for wrong in [
            "larder",
            "larder plan m.gguf --device gpu",
            "larder plan m --config c",
            "larder plan",
            "larder run m.gguf",
            "larder plan m --area wide",
        ] {
            assert!(Cli::try_parse_from(wrong.split(' ')).is_err(), "{wrong}");
        }
    }
}
