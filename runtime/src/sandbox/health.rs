//! Asks the guest from time to time whether it still answers: one that has stopped holds processes that nobody can end.

use std::{sync::Arc, time::Duration};

use tokio::time::sleep;

use crate::{agent::AgentClient, error::ErrorKind, fault};

/// From one question to the next. A guest in which all is well is woken so often, and no more.
const INTERVAL: Duration = Duration::from_secs(30);
/// When the guest's end is why it does not answer, the end is known by then.
const NEWS_OF_DEATH: Duration = Duration::from_secs(1);

/// Returns, with the reason, when the guest has not answered for as long as the configuration gives it. One that `rests`
/// is not asked.
pub(super) async fn silence(agent: Arc<AgentClient>, rests: impl Fn() -> bool) -> String {
    loop {
        sleep(fault::patience(INTERVAL)).await;
        if rests() {
            continue;
        }
        let Err(error) = agent.check().await else { continue };
        // Anything else is an answer.
        if matches!(error.kind(), ErrorKind::DeadlineExceeded | ErrorKind::Unavailable) {
            sleep(NEWS_OF_DEATH).await;
            return format!("the guest does not answer any more: {error}");
        }
    }
}
