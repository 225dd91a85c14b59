//! qwen2 and qwen2.5: biases on q, k and v; windows behind a flag.
#![forbid(unsafe_code)]

use super::{Description, Family};
use crate::error::Result;
use crate::model::config::Config;
use crate::model::gguf::Gguf;
use crate::model::names::{GGUF, HUGGING_FACE};
use crate::model::style::{LLAMA, Style};

pub(super) const FAMILY: Family = Family {
    model_types: &["qwen2"],
    classes: &["Qwen2"],
    gguf: &["qwen2"],
    from_config,
    from_gguf,
};

const STYLE: Style = Style { family: "qwen2", qkv_bias: true, ..LLAMA };

fn from_config(config: &Config) -> Result<Description> {
    let mut spec = config.decoder(&STYLE)?;
    config.windows_behind_flag(&mut spec)?;
    config.keys.refuse_flag("use_mrope")?;
    Ok(Description { spec, names: HUGGING_FACE })
}

fn from_gguf(gguf: &Gguf<'_>) -> Result<Description> {
    let mut spec = gguf.decoder(&STYLE)?;
    gguf.windows(&mut spec, None)?;
    Ok(Description { spec, names: GGUF })
}
