//! The engine's metrics.

use capstan_core::Timestamp;
use capstan_core::input::{Input, StageResult};
use capstan_store::Task;
use tokio::sync::OwnedSemaphorePermit;

/// Says what the metrics of this crate mean. Called once, after the recorder is installed.
pub fn describe_metrics() {
    use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};
    let seconds = Unit::Seconds;
    describe_histogram!("capstan_stage_seconds", seconds, "Time of stages, by stage and outcome");
    describe_histogram!("capstan_job_step_seconds", seconds, "Time of single steps of the engine");
    describe_gauge!("capstan_jobs_under_way", "Effects that this process has claimed");
    describe_gauge!("capstan_stages_without_room", "Stages that wait until fewer are under way");
    describe_gauge!("capstan_slots_used", "Slots for calls to the outside that are taken");
    describe_gauge!("capstan_outcomes_unwritten", "Outcomes that could not be written yet");
    describe_counter!("capstan_worker_restarts_total", "Workers that ended by themselves");
}

/// How long a stage took, and how it ended.
pub(crate) fn stage_ended(task: &Task, input: &Input, now: Timestamp) {
    let (Task::Stage(work), Input::StageEnded(ended)) = (task, input) else { return };
    let outcome = match ended.result {
        StageResult::Succeeded => "succeeded",
        StageResult::StillOut => "still_out",
        StageResult::Unhealthy => "unhealthy",
        StageResult::Failed { cause, .. } => cause.word(),
    };
    let stage = work.stage.word();
    metrics::histogram!("capstan_stage_seconds", "stage" => stage, "outcome" => outcome)
        .record(now.since(work.started_at).as_secs_f64());
}

/// Permits one call to the outside, and is counted.
pub(crate) struct Slot {
    _permit: OwnedSemaphorePermit,
    _counted: Counted,
}

impl Slot {
    pub(crate) fn new(permit: OwnedSemaphorePermit) -> Self {
        Self { _permit: permit, _counted: Counted::new("capstan_slots_used") }
    }
}

/// Counts one more in a gauge of the metrics as long as it lives.
pub(crate) struct Counted(&'static str);

impl Counted {
    pub(crate) fn new(gauge: &'static str) -> Self {
        metrics::gauge!(gauge).increment(1.0);
        Self(gauge)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        metrics::gauge!(self.0).decrement(1.0);
    }
}
