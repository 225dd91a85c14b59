//! The floating-point mode of a thread that computes: round to nearest, denormals kept, nothing trapped.
//!
//! A host may have set another mode on the thread that calls; its workers would have the one of their start. With
//! one mode for all, a row's bits do not depend on who computes it. The host's mode is back after every run.

/// The standard mode while it lives.
pub struct Standard {
    before: u64,
}

impl Standard {
    /// Sets the standard mode on this thread when it has another.
    pub fn enter() -> Standard {
        let before = read();
        if before & MODE_BITS != STANDARD {
            write(before & !MODE_BITS | STANDARD);
        }
        Standard { before }
    }
}

impl Drop for Standard {
    fn drop(&mut self) {
        if self.before & MODE_BITS != STANDARD {
            write(self.before);
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod register {
    /// MXCSR: denormals are zero (6), the six exception masks (7..13), rounding (13, 14), flush to zero (15).
    pub const MODE_BITS: u64 = 0xFFC0;
    /// Every exception masked.
    pub const STANDARD: u64 = 0x1F80;

    pub fn read() -> u64 {
        let mut value = 0u32;
        // SAFETY: stores the control register into a local.
        unsafe { std::arch::asm!("stmxcsr [{}]", in(reg) &mut value, options(nostack)) };
        u64::from(value)
    }

    pub fn write(value: u64) {
        let value = value as u32;
        // SAFETY: the value came from `read` with documented bits changed, so no reserved bit is set.
        unsafe { std::arch::asm!("ldmxcsr [{}]", in(reg) &value, options(nostack, readonly)) };
    }
}

#[cfg(target_arch = "aarch64")]
mod register {
    /// FPCR: alternate handling (0..3), trap enables (8..13, 15), rounding (22, 23), flush to zero (24), default
    /// NaN (25), another f16 (26).
    pub const MODE_BITS: u64 = 0x7C0_9F07;
    pub const STANDARD: u64 = 0;

    pub fn read() -> u64 {
        let value: u64;
        // SAFETY: reads the control register.
        unsafe { std::arch::asm!("mrs {}, fpcr", out(reg) value, options(nomem, nostack)) };
        value
    }

    pub fn write(value: u64) {
        // SAFETY: the value came from `read` with documented bits changed.
        unsafe { std::arch::asm!("msr fpcr, {}", in(reg) value, options(nomem, nostack)) };
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
mod register {
    pub const MODE_BITS: u64 = 0;
    pub const STANDARD: u64 = 0;

    pub fn read() -> u64 {
        0
    }

    pub fn write(_value: u64) {}
}

use register::{MODE_BITS, STANDARD, read, write};

#[cfg(all(test, any(target_arch = "x86_64", target_arch = "aarch64")))]
mod tests {
    use super::*;

    /// Flush to zero, and on x86-64 denormals are zero.
    const FLUSH: u64 = if cfg!(target_arch = "x86_64") { 0x8040 } else { 1 << 24 };

    #[test]
    fn a_hosts_mode_is_replaced_and_restored() {
        let host = read() | FLUSH;
        write(host);
        {
            let _standard = Standard::enter();
            assert_eq!(read() & MODE_BITS, STANDARD);
            let _nested = Standard::enter();
        }
        assert_eq!(read() & MODE_BITS, host & MODE_BITS);
        write(host & !FLUSH);
    }
}
