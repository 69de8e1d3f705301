/** What a process tells of itself: memory, processor, event loop. Names are OpenTelemetry's (semantic conventions, process and Node.js). */
import { monitorEventLoopDelay, performance } from "node:perf_hooks";
import type { Meter } from "@opentelemetry/api";

/** The event loop's delay is sampled at this interval: coarse, so that an idle process stays idle. */
const SAMPLE_MS = 200;
const NS_PER_S = 1e9;
const US_PER_S = 1e6;

/** Observes this process from now on; returns what ends it. */
export function observeProcess(meter: Meter): () => void {
  const delay = monitorEventLoopDelay({ resolution: SAMPLE_MS });
  delay.enable();
  let lastUtilization = performance.eventLoopUtilization();
  const instruments = {
    memory: meter.createObservableGauge("process.memory.usage", {
      unit: "By",
      description: "Resident memory of the process",
    }),
    heap: meter.createObservableGauge("v8js.memory.heap.used", {
      unit: "By",
      description: "JavaScript heap that is in use",
    }),
    processor: meter.createObservableCounter("process.cpu.time", {
      unit: "s",
      description: "Processor time, user and system",
    }),
    uptime: meter.createObservableGauge("process.uptime", {
      unit: "s",
      description: "Seconds since the process began",
    }),
    p99: meter.createObservableGauge("nodejs.eventloop.delay.p99", {
      unit: "s",
      description: "Event loop delay since the last scrape, 99th percentile",
    }),
    max: meter.createObservableGauge("nodejs.eventloop.delay.max", {
      unit: "s",
      description: "Event loop delay since the last scrape, longest",
    }),
    utilization: meter.createObservableGauge("nodejs.eventloop.utilization", {
      unit: "1",
      description: "Share of time since the last scrape in which the event loop was busy",
    }),
  };
  const all = Object.values(instruments);
  const observe: Parameters<Meter["addBatchObservableCallback"]>[0] = (result) => {
    const { user, system } = process.cpuUsage();
    const { rss, heapUsed } = process.memoryUsage();
    const utilization = performance.eventLoopUtilization();
    result.observe(instruments.memory, rss);
    result.observe(instruments.heap, heapUsed);
    result.observe(instruments.processor, (user + system) / US_PER_S);
    result.observe(instruments.uptime, process.uptime());
    // Of samples there may be none yet: then the percentile is 0, and the mean is not a number.
    result.observe(instruments.p99, delay.percentile(99) / NS_PER_S);
    result.observe(instruments.max, delay.max / NS_PER_S);
    result.observe(instruments.utilization, performance.eventLoopUtilization(utilization, lastUtilization).utilization);
    lastUtilization = utilization;
    delay.reset();
  };
  meter.addBatchObservableCallback(observe, all);
  return () => {
    meter.removeBatchObservableCallback(observe, all);
    delay.disable();
  };
}
