/** What a bus tells about itself, by the OpenTelemetry API; without a meter provider it goes nowhere, at no cost. */

import { metrics } from "@opentelemetry/api";

/** The instruments of one open bus (docs/operations.md, "Metrics"). */
export interface BusMetrics {
  /** A connection was made again. */
  reconnected(): void;
  /** A message came that had been delivered before. */
  redelivered(kind: "service" | "run"): void;
  /** A message found no queue. */
  unroutable(): void;
  /** The broker stopped (1) or resumed (-1) taking messages from a connection. */
  blocked(change: 1 | -1): void;
  /** Seconds from publish to delivery. */
  deliveryAge(seconds: number): void;
  /** A message was sent to the dead letters from here. */
  deadLetter(reason: "rejected" | "expired"): void;
}

/** Makes the instruments. */
export function createBusMetrics(): BusMetrics {
  const meter = metrics.getMeter("dynamos");
  const reconnects = meter.createCounter("dynamos.bus.reconnects", { description: "connections made again" });
  const redeliveries = meter.createCounter("dynamos.bus.redeliveries", {
    description: "deliveries of messages that had been delivered before",
  });
  const unroutable = meter.createCounter("dynamos.bus.unroutable", { description: "messages that found no queue" });
  const blocked = meter.createUpDownCounter("dynamos.bus.blocked", {
    description: "connections from which the broker takes no messages (memory or disk alarm)",
  });
  const age = meter.createHistogram("dynamos.bus.delivery.age", {
    description: "time from publish to delivery",
    unit: "s",
  });
  const deadLetters = meter.createCounter("dynamos.bus.dead_letters", {
    description: "messages that this process sent to the dead letters",
  });
  return {
    reconnected: () => reconnects.add(1),
    redelivered: (kind) => redeliveries.add(1, { "dynamos.queue.kind": kind }),
    unroutable: () => unroutable.add(1),
    blocked: (change) => blocked.add(change),
    deliveryAge: (seconds) => age.record(seconds),
    deadLetter: (reason) => deadLetters.add(1, { reason }),
  };
}
