//! RoPE in config.json, in all its spellings: `rope_theta` with `rope_scaling {type | rope_type, ...}`, and
//! `rope_parameters` of transformers 5, for the model or for each type of layer. Where a file has two spellings,
//! they must agree.
#![forbid(unsafe_code)]

use super::keys::Keys;
use super::rope::{RopeSpec, Scaling, Yarn, longrope_magnitude, yarn_magnitude};
use super::style::{Sizes, Style};
use crate::backend::ops::RopePairs;
use crate::error::{Error, Result};
use crate::format::config::Object;

type ConfigKeys = Keys<Object>;

/// The RoPE of a model that has one.
pub fn global(config: &ConfigKeys, style: &Style, sizes: &Sizes) -> Result<RopeSpec> {
    let theta = config.opt_positive_f32("rope_theta")?;
    let (scaling, parameters) = objects(config)?;
    let reader = Reader { config, style, sizes };
    match (scaling, parameters) {
        (Some(scaling), Some(parameters)) => {
            let new = reader.rope(Some(parameters), theta, style.theta)?;
            agree(reader.rope(Some(scaling), theta, new.theta)?, new)
        }
        (scaling, parameters) => reader.rope(scaling.or(parameters), theta, style.theta),
    }
}

/// gemma3's two: of full and of sliding layers. `local_theta` is the sliding layers' base where none is named.
pub fn by_layer_type(
    config: &ConfigKeys,
    style: &Style,
    sizes: &Sizes,
    local_theta: f32,
) -> Result<[RopeSpec; 2]> {
    let theta = config.opt_positive_f32("rope_theta")?;
    let local = config.opt_positive_f32("rope_local_base_freq")?;
    let (scaling, parameters) = objects(config)?;
    let reader = Reader { config, style, sizes };
    let Some(parameters) = parameters else {
        let full = reader.rope(scaling, theta, style.theta)?;
        return Ok([full, reader.rope(None, local, local_theta)?]);
    };
    let known = ["full_attention", "sliding_attention"];
    if let Some(other) = parameters.keys().find(|key| !known.contains(key)) {
        let text = format!("has {other:?}, expected full_attention and sliding_attention");
        return Err(config.bad("rope_parameters", &text));
    }
    let part = |key: &str| {
        let nested = parameters.get_object(key)?;
        nested.map(Some).ok_or_else(|| config.bad("rope_parameters", &format!("has no {key}")))
    };
    let full = reader.rope(part("full_attention")?, theta, style.theta)?;
    let sliding = reader.rope(part("sliding_attention")?, local, local_theta)?;
    match scaling {
        None => Ok([full, sliding]),
        Some(old) => Ok([agree(reader.rope(Some(old), theta, full.theta)?, full)?, sliding]),
    }
}

/// `rope_scaling` and `rope_parameters`.
fn objects(config: &ConfigKeys) -> Result<(Option<Object>, Option<Object>)> {
    let object = |key: &str| config.values().get_object(&config.ignore(key));
    Ok((object("rope_scaling")?, object("rope_parameters")?))
}

fn agree(old: RopeSpec, new: RopeSpec) -> Result<RopeSpec> {
    if old == new {
        return Ok(new);
    }
    let text =
        "config.json: rope_scaling and rope_parameters are both there and contradict each other";
    Err(Error::BadModel(text.into()))
}

struct Reader<'a> {
    config: &'a ConfigKeys,
    style: &'a Style,
    sizes: &'a Sizes,
}

impl Reader<'_> {
    /// `outer` is the base that config.json names outside of `object`, `default` the one where it names none.
    fn rope(&self, object: Option<Object>, outer: Option<f32>, default: f32) -> Result<RopeSpec> {
        let object = object.map_or_else(|| Object::parse("config.json", b"{}"), Ok)?;
        let keys = Keys::new(object, "", "config.json: rope_scaling or rope_parameters");
        let theta = match (keys.opt_positive_f32("rope_theta")?, outer) {
            (Some(inner), Some(outer)) if inner != outer => {
                return Err(keys.bad("rope_theta", &format!("is {inner}, but beside it {outer}")));
            }
            (inner, outer) => inner.or(outer).unwrap_or(default),
        };
        let dim = self.dim(&keys)?;
        let scaling = self.scaling(&keys, dim)?;
        keys.finish(|_| false)?;
        Ok(RopeSpec { pairs: RopePairs::Halves, dim, theta, scaling })
    }

    /// Rotated elements of a head.
    fn dim(&self, keys: &ConfigKeys) -> Result<u32> {
        const KEY: &str = "partial_rotary_factor";
        let head_dim = self.sizes.heads.head_dim;
        let (inner, outer) = (keys.opt_positive_f32(KEY)?, self.config.opt_positive_f32(KEY)?);
        if let (Some(inner), Some(outer)) = (inner, outer)
            && inner != outer
        {
            let text = format!("is {outer}, but in rope_parameters {inner}");
            return Err(self.config.bad(KEY, &text));
        }
        self.config.refuse_flag("rope_interleaved")?;
        let factor = inner.or(outer).unwrap_or(1.0);
        if factor > 1.0 || (factor < 1.0 && !self.style.partial_rotary) {
            let text = format!("{factor}; family {} turns whole heads", self.style.family);
            return Err(self.config.unsupported(KEY, &text));
        }
        let dim = (f64::from(head_dim) * f64::from(factor)) as u32;
        if dim == 0 || !dim.is_multiple_of(2) {
            let text = format!("gives {dim} rotated elements of a head, expected an even number");
            return Err(self.config.bad(if factor < 1.0 { KEY } else { "head_dim" }, &text));
        }
        Ok(dim)
    }

    fn scaling(&self, keys: &ConfigKeys, dim: u32) -> Result<Scaling> {
        let (old, new) = (keys.opt_str("type")?, keys.opt_str("rope_type")?);
        let canonical = |name| if name == "su" { "longrope" } else { name };
        let (old, new) = (old.map(canonical), new.map(canonical));
        if let (Some(old), Some(new)) = (old, new)
            && old != new
        {
            let text = format!("is {new:?}, but type is {old:?}");
            return Err(keys.bad("rope_type", &text));
        }
        self.config.ignore("original_max_position_embeddings"); // beside a RoPE without scaling it says nothing
        match new.or(old) {
            None if keys
                .values()
                .keys()
                .any(|key| key.contains("factor") && !key.contains("rotary")) =>
            {
                Err(keys.missing("rope_type"))
            }
            None | Some("default") => Ok(Scaling::None),
            Some("linear") => Ok(Scaling::Linear { factor: keys.positive_f32("factor")? }),
            Some("llama3") => self.llama3(keys),
            Some("yarn") => self.yarn(keys),
            Some("longrope") => self.longrope(keys, dim),
            Some("dynamic") => {
                let factor = keys.positive_f32("factor")?;
                Ok(Scaling::DynamicNtk { factor, context: self.sizes.context_length })
            }
            Some(other) => Err(keys.unsupported(
                "rope_type",
                &format!("{other:?}; known are default, linear, llama3, yarn, longrope, dynamic"),
            )),
        }
    }

    fn llama3(&self, keys: &ConfigKeys) -> Result<Scaling> {
        let low_freq_factor = keys.positive_f32("low_freq_factor")?;
        let high_freq_factor = keys.positive_f32("high_freq_factor")?;
        if high_freq_factor <= low_freq_factor {
            let text = format!(
                "is {high_freq_factor}, expected more than low_freq_factor = {low_freq_factor}"
            );
            return Err(keys.bad("high_freq_factor", &text));
        }
        Ok(Scaling::Llama3 {
            factor: keys.positive_f32("factor")?,
            low_freq_factor,
            high_freq_factor,
            original_context: self.original_context(keys)?,
        })
    }

    fn yarn(&self, keys: &ConfigKeys) -> Result<Scaling> {
        let factor = keys.positive_f32("factor")?;
        let (mscale, all) = (keys.opt_f32("mscale")?, keys.opt_f32("mscale_all_dim")?);
        let usual = match (mscale.filter(|m| *m != 0.0), all.filter(|m| *m != 0.0)) {
            (Some(mscale), Some(all)) => {
                yarn_magnitude(factor, mscale) / yarn_magnitude(factor, all)
            }
            _ => yarn_magnitude(factor, 1.0),
        };
        Ok(Scaling::Yarn(Yarn {
            factor,
            original_context: self.original_context(keys)?,
            beta_fast: keys.opt_positive_f32("beta_fast")?.unwrap_or(32.0),
            beta_slow: keys.opt_positive_f32("beta_slow")?.unwrap_or(1.0),
            truncate: keys.opt_bool("truncate")?.unwrap_or(true),
            magnitude: keys.opt_positive_f32("attention_factor")?.unwrap_or(usual),
        }))
    }

    fn longrope(&self, keys: &ConfigKeys, dim: u32) -> Result<Scaling> {
        let original_context = self.original_context(keys)?;
        let stretch = self.sizes.context_length as f32 / original_context as f32;
        let factor = keys.opt_positive_f32("factor")?.unwrap_or(stretch);
        let usual = longrope_magnitude(factor, original_context);
        let factors = |key: &str| {
            let list = keys.values().get_f32s(&keys.ignore(key))?;
            let list = list.ok_or_else(|| keys.missing(key))?;
            check_divisors(&list, dim).map_err(|text| keys.bad(key, &text))?;
            Ok(list)
        };
        Ok(Scaling::LongRope {
            short: factors("short_factor")?,
            long: factors("long_factor")?,
            original_context,
            magnitude: keys.opt_positive_f32("attention_factor")?.unwrap_or(usual),
        })
    }

    /// Inside the object or beside it; both must agree.
    fn original_context(&self, keys: &ConfigKeys) -> Result<u32> {
        const KEY: &str = "original_max_position_embeddings";
        match (keys.opt_u32(KEY)?, self.config.opt_u32(KEY)?) {
            (Some(inner), Some(outer)) if inner != outer => {
                Err(self.config.bad(KEY, &format!("is {outer}, but in rope_parameters {inner}")))
            }
            (Some(0), _) | (_, Some(0)) => Err(keys.bad(KEY, "is 0, expected at least 1")),
            (inner, outer) => inner.or(outer).ok_or_else(|| keys.missing(KEY)),
        }
    }
}

/// One positive divisor for each pair of `dim` rotated elements; else what is wrong.
pub fn check_divisors(divisors: &[f32], dim: u32) -> std::result::Result<(), String> {
    if divisors.len() != dim as usize / 2 {
        return Err(format!("has {} numbers, expected {}", divisors.len(), dim / 2));
    }
    match divisors.iter().find(|divisor| !(divisor.is_finite() && **divisor > 0.0)) {
        Some(bad) => Err(format!("has {bad}, expected numbers above 0")),
        None => Ok(()),
    }
}
