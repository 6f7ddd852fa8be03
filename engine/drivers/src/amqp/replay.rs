//! Messages that were laid aside go back into the queue, some at a time.
//!
//! A message is taken from where it lay only when the broker has confirmed that the queue has it. (A
//! transaction of the broker promises less: it may keep the acknowledgements without the messages.) When the
//! connection is cut in between, at most a lot comes twice.

use std::time::{Duration, Instant};

use capstan_core::message::Replayed;
use capstan_core::ports::DriverError;
use lapin::options::{BasicAckOptions, BasicGetOptions, BasicPublishOptions};
use lapin::{BasicProperties, Channel, Connection};

use super::publish::PERSISTENT;
use super::{
    CONNECT, DEAD, QUEUE, Settings, Topology, confirmed, connect, failed, in_time, inward, queue,
};

/// Messages that are confirmed together.
const LOT: u32 = 100;
/// No lot is begun after this time, so that whoever asks is answered long before a call is given up.
const TIME: Duration = Duration::from_secs(3);
/// How long a lot may take. With a connection before it and what comes last that is less than the limit of the
/// call.
const LOT_TIME: Duration = Duration::from_secs(3);
/// On a slow line a lot ends after this time with what it has.
const TAKING: Duration = Duration::from_secs(1);

/// Moves at most so many messages, on a connection of its own: that happens rarely.
pub(super) async fn replay(settings: &Settings, most: u32) -> Result<Replayed, DriverError> {
    let ready = in_time(CONNECT, "a connection", ready(settings)).await;
    // No more than there are now: what comes back at once is not moved for ever.
    let (_connection, channel, there) = ready?;
    let (most, began) = (most.min(there), Instant::now());
    let mut moved = 0;
    while moved < most && began.elapsed() < TIME {
        match in_time(LOT_TIME, "dead messages", lot(&channel, LOT.min(most - moved))).await {
            Ok(0) => return Ok(Replayed { moved, left: 0 }),
            Ok(some) => moved += some,
            // What was moved stays moved, and is told.
            Err(error) if moved > 0 => {
                tracing::warn!(%error, moved, "only some messages are in the queue again");
                break;
            }
            Err(error) => return Err(error),
        }
    }
    // The connection must not go before the broker has the last acknowledgement.
    let last = in_time(LOT_TIME, "the last messages", queue(&channel, DEAD, Topology::Checked));
    if let Err(error) = last.await {
        tracing::warn!(%error, "messages that are in the queue again may come twice");
    }
    Ok(Replayed { moved, left: there - moved })
}

/// A channel, and how many messages lie aside.
async fn ready(settings: &Settings) -> Result<(Connection, Channel, u32), DriverError> {
    let connection = connect(settings, "capstan cmdb, replay").await?;
    let channel = confirmed(&connection).await?;
    inward(&channel, settings.topology).await?;
    let there = queue(&channel, DEAD, Topology::Checked).await?;
    Ok((connection, channel, there))
}

async fn lot(channel: &Channel, most: u32) -> Result<u32, DriverError> {
    let (mut sent, mut moved, mut last) = (Vec::new(), 0, None);
    let began = Instant::now();
    while moved < most && began.elapsed() < TAKING {
        let got = channel.basic_get(DEAD.into(), BasicGetOptions::default()).await;
        let Some(got) = got.map_err(|error| failed("a dead message", &error))? else { break };
        let properties = BasicProperties::default().with_delivery_mode(PERSISTENT);
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let body = &got.delivery.data;
        let confirm =
            channel.basic_publish("".into(), QUEUE.into(), options, body, properties).await;
        sent.push(confirm.map_err(|error| failed("a message", &error))?);
        moved += 1;
        last = Some(got.delivery.acker);
    }
    let Some(last) = last else { return Ok(0) };
    for confirm in sent {
        let confirmation = confirm.await.map_err(|error| failed("a confirm", &error))?;
        if !confirmation.is_ack() || confirmation.take_message().is_some() {
            let text = format!("the queue {QUEUE} has not taken a message");
            return Err(DriverError::Busy(text));
        }
    }
    let all = BasicAckOptions { multiple: true };
    last.ack(all).await.map_err(|error| failed("an acknowledgement", &error))?;
    Ok(moved)
}
