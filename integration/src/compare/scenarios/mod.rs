//! The scenarios, by group.

mod control;
mod details;
mod execs;
mod exit_codes;
mod order;
mod refused;
mod signals;
mod states;
mod streams;
mod terminal;
mod tree;
mod waits;

use super::row::Row;

/// All of them, in the order they are run.
pub fn all() -> Vec<Row> {
    let groups = [
        exit_codes::rows(),
        waits::rows(),
        signals::rows(),
        streams::rows(),
        terminal::rows(),
        execs::rows(),
        states::rows(),
        control::rows(),
        details::rows(),
        tree::rows(),
        refused::rows(),
        order::rows(),
    ];
    groups.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn titles_are_unique() {
        let rows = all();
        let titles: HashSet<_> = rows.iter().map(Row::title).collect();
        assert_eq!(titles.len(), rows.len());
    }

    #[test]
    fn every_group_is_in_the_short_selection() {
        let rows = all();
        let groups: HashSet<_> = rows.iter().map(|row| row.group).collect();
        let quick: HashSet<_> = rows.iter().filter(|row| row.quick).map(|row| row.group).collect();
        assert_eq!(groups, quick);
        assert!(rows.len() >= 120, "{} rows", rows.len());
    }
}
