//! Scenarios that once broke a rule. Each is replayed with every check of the simulation.
#![allow(clippy::unwrap_used, missing_docs)]

mod sim;

use sim::scenario::{parse, replay, text};

/// What went wrong, and the scenario that showed it.
const SCENARIOS: &[(&str, &str)] = &[
    (
        "one look found a mark that had come late and gave its server to a target: the check counted that as a server taken out of traffic",
        "group servers=9 marked=0 pools=1 dark=true bastion=false adopted=false first=In can_drain=true bypass=true
         create 1 2
         lose 6 0
         may 2 0
         brake 0 0
         lb_open 0 0
         revoke 0 0
         create 0 3
         ok 0 0
         ok 0 0
         lands 0 0
         ok 0 0
         ok 0 0
         lb_back 0 0
         add 0 0
         ok 0 0
         ok 0 0
         ok 0 0
         lose 0 0
         retry 0 0
         wont 0 0
         ok 0 0",
    ),
    (
        "a server whose late mark was off came in, and the effect that removes the mark stayed",
        "group servers=38 marked=0 pools=1 dark=true bastion=false adopted=true first=In can_drain=true bypass=false
         create 1 0
         lb_open 0 0
         ok 0 0
         unhealthy 0 0
         may 9 0
         ok 0 0
         rollback 0 0
         ok 0 0
         ok 0 0
         lb_back 0 0
         look 0 0
         ok 0 0
         lb_cut 0 0
         ok 0 0
         ok 0 0
         ok 0 0
         ok 0 0
         ok 0 0
         ok 0 0
         ok 0 0
         ok 0 0
         draft 0 0
         ok 0 0
         rollback 0 0
         ok 0 0
         ok 0 0
         ok 0 0
         ok 0 0
         ok 4 13
         ok 3 8
         ok 9 15
         ok 11 1
         start 36 1
         ok 16 7
         rollout 0 6
         blind 38 12
         late 27 7
         ok 24 7
         acted 36 0
         take_over 2 13
         bake 11 14
         revive 15 13
         drain 10 3
         ok 24 4
         resume 34 4
         ok 5 9
         retry 25 0
         start 3 13
         lb_back 25 8
         lb_open 24 0
         look 16 7",
    ),
    (
        "a Markup removed a mark that had come late, and the effect that should do so stayed",
        "group servers=9 marked=0 pools=1 dark=true bastion=true adopted=true first=In can_drain=true
         create 1 6
         ok 0 0
         pull 9 0
         ok 0 0
         retry 0 0
         lose 0 0
         wont 0 0
         lands 0 0
         revoke 0 0
         look 0 0
         rollback 0 0
         ok 0 0
         ok 0 0",
    ),
    (
        "a server that left and came back while its stage ran did not count as out (S1)",
        "group servers=2 marked=0 pools=1 dark=true bastion=false adopted=false first=In
         create 1 0
         ok 0 0
         remove 1 0
         restore 13 0",
    ),
    (
        "a drain that was still due took a server out of traffic after its Markup",
        "group servers=6 marked=0 pools=1 dark=true bastion=true adopted=false first=In
         create 1 2
         ok 0 0
         ok 0 0
         ok 0 0
         ok 0 0
         unmark 6 0
         look 0 0
         bake 0 0
         ok 0 0",
    ),
    (
        "who brakes anew was not called stale after another day",
        "group servers=3 marked=0 pools=1 dark=true bastion=false adopted=false first=In
         create 1 0
         wont 0 0
         pass 7 0
         brake 0 0",
    ),
    (
        "a batch that waited for a click beside one that was retried was not called stale",
        "group servers=8 marked=0 pools=1 dark=true bastion=false adopted=false first=In
         create 1 2
         ok 0 0
         ok 0 0
         lose 0 0
         remove 9 0
         may 6 0
         ok 0 0
         retry 0 0
         pass 7 0
         wake 0 0",
    ),
    (
        "a rollback at the instant of the release that it undoes overlaps with nothing (S6)",
        "group servers=1 marked=0 pools=1 dark=true bastion=false adopted=true first=In
         create 1 0
         rollback 0 0
         ok 0 0",
    ),
    (
        "a scale-out does not visit servers that are out and prove the version, and is held",
        "group servers=4 marked=0 pools=1 dark=true bastion=true adopted=true first=In
         create 1 7
         ok 0 0
         ok 0 0
         ok 0 0
         ok 0 0
         bake 0 0
         ok 0 0
         rollout 0 0
         revoke 0 0
         scaleout 21 2",
    ),
    (
        "a server that was drained again after its Markdown had failed counted as in service (S1)",
        "group servers=12 marked=3 pools=1 dark=true bastion=true adopted=false first=In
         create 1 0
         wont 0 0
         look 0 0
         drain 0 0
         ok 0 0
         revoke 0 0
         ok 0 0
         ok 0 0
         blind 1 0
         pull 3 0
         create 0 2
         ok 0 0",
    ),
    (
        "a server that was taken without a mark and left for a while did not count as out (S1, S12)",
        "group servers=6 marked=0 pools=1 dark=true bastion=false adopted=false first=In can_drain=false
         create 1 2
         lb_cut 0 0
         pull 7 0
         revoke 0 0
         rename 3 0
         create 0 0
         revoke 0 0
         lb_open 0 0
         rename 0 0
         ok 0 0
         add 7 0
         create 25 2",
    ),
    (
        "a server that was put back is asked on while a target brings it in",
        "group servers=2 marked=0 pools=1 dark=true bastion=false adopted=true first=In can_drain=false
         create 1 0
         revoke 0 0
         pull 14 0
         lb_dies 0 0
         back 14 0
         create 4 0
         ok 0 0",
    ),
    (
        "a Markup whose answer was lost is taken over to be asked for, on an old proof too (S5, S11)",
        "group servers=1 marked=0 pools=1 dark=true bastion=true adopted=false first=In
         create 1 0
         ok 0 0
         ok 0 0
         ok 0 0
         ok 0 0
         bake 0 0
         lose 0 0
         pass 5 0
         crash 0 0",
    ),
];

#[test]
fn scenarios_that_once_broke_a_rule_do_so_no_more() {
    for (what, scenario) in SCENARIOS {
        println!("{what}");
        drop(replay(scenario));
    }
}

#[test]
fn a_scenario_is_printed_as_it_is_read() {
    for (_, scenario) in SCENARIOS {
        let (setup, steps) = parse(scenario);
        assert_eq!(parse(&text(&setup, &steps)), (setup, steps));
    }
}
