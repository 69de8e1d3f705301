/** Figures of a service queue, observed at the bus: what waits, and who takes. */
import type { MessageBus } from "../bus/message-bus.ts";
import { dynamosMeter } from "./metrics.ts";

/** Observes a service queue whenever metrics are collected. While the bus is away there are no figures. */
export function observeServiceQueue(bus: Pick<MessageBus, "queueStatus">, queue: string): void {
  const meter = dynamosMeter();
  const depth = meter.createObservableGauge("dynamos.bus.queue.depth", {
    description: "Messages that wait in a service queue",
  });
  const consumers = meter.createObservableGauge("dynamos.bus.queue.consumers", {
    description: "Consumers of a service queue, in all processes",
  });
  meter.addBatchObservableCallback(
    async (result) => {
      const status = await bus.queueStatus(queue);
      if (status === undefined) return;
      result.observe(depth, status.ready, { queue });
      result.observe(consumers, status.consumers, { queue });
    },
    [depth, consumers],
  );
}
