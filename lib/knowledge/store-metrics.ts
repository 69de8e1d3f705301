/** What operators see of a knowledge store that is a server. Without a metrics provider all of it costs and does nothing. */
import { type Counter, type Histogram } from "@opentelemetry/api";
import { dynamosMeter } from "../telemetry/metrics.ts";

/** See the file comment. One per open store, so that a provider that is set before the store is opened is found. */
export class StoreMetrics {
  readonly #reconnects: Counter;
  readonly #leaseLosses: Counter;
  readonly #callDuration: Histogram;

  constructor() {
    const meter = dynamosMeter();
    this.#reconnects = meter.createCounter("dynamos.store.reconnects", {
      description: "Connections to the knowledge store that replaced a broken one",
    });
    this.#leaseLosses = meter.createCounter("dynamos.store.lease.losses", {
      description: "Leases that ended although their owner had not released them",
    });
    this.#callDuration = meter.createHistogram("dynamos.store.call.duration", {
      description: "Time of a call to the knowledge store, repetitions included",
      unit: "s",
      advice: { explicitBucketBoundaries: [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10] },
    });
  }

  reconnected(): void {
    this.#reconnects.add(1);
  }

  leaseLost(): void {
    this.#leaseLosses.add(1);
  }

  /** `outcome` is `ok` or an error code. */
  called(operation: string, outcome: string, seconds: number): void {
    this.#callDuration.record(seconds, { operation, outcome });
  }
}
