//! What runs the guest's instructions: the choice, made once per backend.

use std::path::Path;

use runtime::{
    config::Accelerator as Wanted,
    error::{Error, Result},
};

use crate::kvm::{self, Verdict};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Accelerator {
    Kvm,
    /// Emulation.
    Tcg,
}

impl Accelerator {
    /// The name that QEMU has for it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }

    /// Settles on one. `verdict_file` remembers what was found out about KVM.
    pub(crate) async fn choose(wanted: Wanted, verdict_file: &Path) -> Result<Self> {
        match wanted {
            Wanted::Tcg => Ok(Self::Tcg),
            wanted => decide(wanted, kvm::probe(verdict_file).await),
        }
    }
}

fn decide(wanted: Wanted, verdict: Verdict) -> Result<Accelerator> {
    match (wanted, verdict) {
        (Wanted::Tcg, _) => Ok(Accelerator::Tcg),
        (_, Verdict::Usable) => Ok(Accelerator::Kvm),
        (Wanted::Kvm, Verdict::Missing(reason)) => Err(Error::precondition(format!(
            "hypervisor.qemu.accelerator = \"kvm\": {reason}; load the kvm module of this processor, or set \"auto\" \
             or \"tcg\""
        ))),
        (Wanted::Kvm, Verdict::Unusable(reason)) => {
            tracing::warn!(reason, "KVM is used as configured, but does not run guests properly");
            Ok(Accelerator::Kvm)
        }
        (Wanted::Auto, Verdict::Missing(reason) | Verdict::Unusable(reason)) => {
            tracing::warn!(
                reason,
                "no usable KVM: guests are emulated, which is slow and, by QEMU's own word, no security boundary"
            );
            Ok(Accelerator::Tcg)
        }
    }
}

#[cfg(test)]
mod tests {
    use runtime::error::ErrorKind;

    use super::*;

    #[test]
    fn what_is_wanted_and_what_is_found_decide() {
        let slow = || Verdict::Unusable("slow".into());
        let gone = || Verdict::Missing("/dev/kvm: no such file".into());
        let chosen = |wanted, verdict| decide(wanted, verdict).map_err(|error| error.kind());
        for (wanted, verdict, expected) in [
            (Wanted::Auto, Verdict::Usable, Ok(Accelerator::Kvm)),
            (Wanted::Auto, slow(), Ok(Accelerator::Tcg)),
            (Wanted::Auto, gone(), Ok(Accelerator::Tcg)),
            (Wanted::Kvm, Verdict::Usable, Ok(Accelerator::Kvm)),
            (Wanted::Kvm, slow(), Ok(Accelerator::Kvm)),
            (Wanted::Kvm, gone(), Err(ErrorKind::FailedPrecondition)),
            (Wanted::Tcg, Verdict::Usable, Ok(Accelerator::Tcg)),
        ] {
            assert_eq!(chosen(wanted, verdict.clone()), expected, "{wanted:?} {verdict:?}");
        }
    }
}
