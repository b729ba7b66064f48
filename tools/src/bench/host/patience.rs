//! Waiting for what only looking again can tell, within a bound.

use std::{
    thread,
    time::{Duration, Instant},
};

const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(20);

/// Looks until there is something to see; `None` if that is not within `deadline`. One who measures a time by it says
/// how long a pause between looks may get.
pub fn wait<T>(
    deadline: Duration,
    longest: Option<Duration>,
    mut look: impl FnMut() -> Option<T>,
) -> Option<T> {
    let began = Instant::now();
    let mut pause = FIRST_PAUSE;
    loop {
        if let Some(seen) = look() {
            return Some(seen);
        }
        if began.elapsed() >= deadline {
            return None;
        }
        thread::sleep(pause);
        pause = (pause * 2).min(longest.unwrap_or(LONGEST_PAUSE));
    }
}

/// For looks that are part of what is measured.
pub const OFTEN: Option<Duration> = Some(FIRST_PAUSE);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_sees_what_comes_and_gives_up_on_what_does_not() {
        let mut looks = 0;
        let seen = wait(Duration::from_secs(5), OFTEN, || {
            looks += 1;
            (looks == 3).then_some(looks)
        });
        assert_eq!(seen, Some(3));
        assert_eq!(wait(Duration::from_millis(3), None, || None::<()>), None);
    }
}
