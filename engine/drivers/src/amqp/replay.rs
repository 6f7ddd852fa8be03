//! Messages that were laid aside go back into the queue, some at a time.
//!
//! A message is taken from where it lay only when the broker has confirmed that the queue has it. (A
//! transaction of the broker promises less: it may keep the acknowledgements without the messages.) When the
//! connection is cut in between, at most a lot comes twice.

use std::time::{Duration, Instant};

use capstan_core::message::Replayed;
use capstan_core::ports::DriverError;
use lapin::options::{BasicAckOptions, BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Channel};

use super::publish::PERSISTENT;
use super::{DEAD, QUEUE, Settings, Topology, connect, failed, inward, queue};

/// Messages that are confirmed together.
const LOT: u32 = 100;
/// No lot is begun after this time, so that whoever asks is answered long before a call is given up.
const TIME: Duration = Duration::from_secs(4);

/// Moves at most so many messages, on a connection of its own: that happens rarely.
pub(super) async fn replay(settings: &Settings, most: u32) -> Result<Replayed, DriverError> {
    let connection = connect(settings, "capstan cmdb, replay").await?;
    let channel = connection.create_channel().await;
    let channel = channel.map_err(|error| failed("a channel", &error))?;
    inward(&channel, settings.topology).await?;
    let confirms = channel.confirm_select(ConfirmSelectOptions::default()).await;
    confirms.map_err(|error| failed("confirms", &error))?;
    // No more than there are now: what comes back at once is not moved for ever.
    let there = queue(&channel, DEAD, Topology::Checked).await?;
    let (most, began) = (most.min(there), Instant::now());
    let mut moved = 0;
    while moved < most && began.elapsed() < TIME {
        match lot(&channel, LOT.min(most - moved)).await {
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
    if let Err(error) = queue(&channel, DEAD, Topology::Checked).await {
        tracing::warn!(%error, "messages that are in the queue again may come twice");
    }
    Ok(Replayed { moved, left: there - moved })
}

async fn lot(channel: &Channel, most: u32) -> Result<u32, DriverError> {
    let (mut sent, mut last) = (Vec::new(), None);
    for _ in 0..most {
        let got = channel.basic_get(DEAD.into(), BasicGetOptions::default()).await;
        let Some(got) = got.map_err(|error| failed("a dead message", &error))? else { break };
        let properties = BasicProperties::default().with_delivery_mode(PERSISTENT);
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let body = &got.delivery.data;
        let confirm =
            channel.basic_publish("".into(), QUEUE.into(), options, body, properties).await;
        sent.push(confirm.map_err(|error| failed("a message", &error))?);
        last = Some(got.delivery.acker);
    }
    let Some(last) = last else { return Ok(0) };
    let moved = u32::try_from(sent.len()).unwrap_or(most);
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
