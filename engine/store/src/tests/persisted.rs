//! The core's simulation, whose record is a real database as well: what is decided there in memory is written here as
//! the committer writes it, and read again as a fresh start and other processes read it.
//!
//! A failing case is printed as a scenario; paste it into a test like `every_word_is_kept`.

mod kept;
#[path = "../../../core/tests/sim/random.rs"]
mod random;
mod rows;
#[expect(clippy::too_many_lines, reason = "one arm for each word of a scenario")]
#[path = "../../../core/tests/sim/mod.rs"]
mod sim;

use std::rc::Rc;

use proptest::collection::vec;
use proptest::test_runner::TestRunner;

use kept::{Kept, Place, Seen};
use random::{a_setup, a_step, begun, cases, try_case};
use sim::scenario::{Step, WORDS, run};
use sim::{Setup, World};

/// Runs a scenario, and compares all that is kept at its end.
fn play(place: &Rc<Place>, setup: Setup, steps: &[Step]) {
    let world = World::kept(setup, Box::new(Kept::new(Rc::clone(place))));
    run(world, steps).end_record();
}

#[test]
fn random_scenarios_are_kept() {
    let place = Rc::new(Place::new());
    let mut runner = TestRunner::new(cases(30));
    let scenario = (a_setup(1..13_u32), 0..9_u32, vec(a_step(), 1..90));
    let result = runner.run(&scenario, |(setup, config, steps)| {
        try_case(setup, &begun(steps, config), |setup, steps| play(&place, setup, steps))
    });
    if let Err(error) = result {
        panic!("{error}\n{runner}");
    }
}

/// Every word once in a while of a rollout that goes on, so that crashes, lost comparisons, and changes that are noted
/// and that are not are sure to be among what is tested.
#[test]
fn every_word_is_kept() {
    let place = Rc::new(Place::new());
    let setup = Setup { servers: 12, marked: 2, pools: 2, spare: true, ..Setup::default() };
    let goes_on = ["create", "ok", "ok", "bake", "ok", "rollout", "ok", "resume", "ok", "rename"];
    let steps = WORDS.into_iter().zip(0..).flat_map(|((word, _), number)| {
        let step = move |word| Step { word, a: number, b: number };
        goes_on.into_iter().map(step).chain([step(word)])
    });
    play(&place, setup, &steps.collect::<Vec<_>>());
    let seen = place.seen();
    let Seen { rounds, merged, crashes, noted, not_noted, taken_back, read_anew } = seen;
    let rare = [merged, crashes, noted, not_noted, taken_back, read_anew];
    assert!(rounds > 100 && rare.into_iter().all(|count| count > 0), "{seen:?}");
}
