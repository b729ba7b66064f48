//! Who is killed first when the host is short of memory: what serves a sandbox is worth as much as what is in it.

use std::fs;

use super::{Sandbox, lock};
use crate::{bundle::Bundle, cgroup, ledger::Resource};

impl Sandbox {
    /// Gives the helpers the score (`oom_score_adj` of proc(5)) that the container asks for, which without a VM would be its
    /// own. A VM is killed as a whole: of several containers the one counts that is to be spared most. A container that only
    /// waits is none.
    pub(super) fn take_precedence_of(&self, bundle: &Bundle) {
        let score = bundle.spec.process().as_ref().and_then(|process| process.oom_score_adj());
        let Some(score) = score.filter(|_| !bundle.only_waits()) else { return };
        let mut lowest = lock(&self.oom_score);
        if lowest.is_some_and(|lowest| lowest <= score) {
            return;
        }
        *lowest = Some(score);
        for pid in self.helpers() {
            // Below what a process was started with is for CAP_SYS_RESOURCE only, and the process may end any time.
            if let Err(error) = fs::write(format!("/proc/{pid}/oom_score_adj"), score.to_string()) {
                tracing::debug!(%error, pid, score, "a helper keeps its OOM score");
            }
        }
    }

    /// Those in their group, or where there is none those that were written down.
    fn helpers(&self) -> Vec<i32> {
        let claims = self.store.record().own.ledger;
        let grouped = claims.iter().find_map(|claim| match claim {
            Resource::Group { path } => cgroup::members(path).ok(),
            _ => None,
        });
        grouped.unwrap_or_else(|| {
            let started = claims.iter().filter_map(|claim| match claim {
                Resource::Process { id, role } if role != "hook" && role != "logger" => {
                    i32::try_from(id.pid).ok()
                }
                _ => None,
            });
            started.collect()
        })
    }
}
