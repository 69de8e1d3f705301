/** The registry behind the metrics API, and what a scrape shows of it. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { MetricRegistry } from "../../../lib/telemetry/metric-registry.ts";
import { prometheusText } from "../../../lib/telemetry/prometheus-text.ts";

const LIMIT_MS = 2_000;

function taking() {
  const registry = new MetricRegistry();
  const meter = registry.getMeter();
  const lines = async (limitMs = LIMIT_MS): Promise<readonly string[]> =>
    prometheusText(await registry.collect(limitMs))
      .split("\n")
      .filter((line) => line !== "" && !line.startsWith("# HELP"));
  return { meter, lines };
}

describe("a counter", () => {
  test("is shown with 0 before its first step, and adds up per set of labels afterwards", async () => {
    const { meter, lines } = taking();
    const retries = meter.createCounter("dynamos.chain.retries");
    assert.deepEqual(await lines(), ["# TYPE dynamos_chain_retries_total counter", "dynamos_chain_retries_total 0"]);
    retries.add(1, { role: "all", code: "job_failed" });
    retries.add(2, { code: "job_failed", role: "all" });
    retries.add(1, { role: "dataProvider", code: "job_failed" });
    retries.add(-5, { role: "all", code: "job_failed" });
    retries.add(Number.NaN, { role: "all", code: "job_failed" });
    assert.deepEqual((await lines()).slice(1), [
      'dynamos_chain_retries_total{role="all",code="job_failed"} 3',
      'dynamos_chain_retries_total{role="dataProvider",code="job_failed"} 1',
    ]);
  });

  test("that is made twice is one counter, and cannot be made again as something else", async () => {
    const { meter, lines } = taking();
    meter.createCounter("reconnects").add(1);
    meter.createCounter("reconnects").add(1);
    assert.deepEqual((await lines()).slice(1), ["reconnects_total 2"]);
    assert.throws(() => meter.createGauge("reconnects"), { code: "conflict" });
  });

  test("with labels without end keeps 500 sets, and counts the others together", async () => {
    const { meter, lines } = taking();
    const counter = meter.createCounter("requests");
    for (let index = 0; index < 600; index++) counter.add(1, { index });
    const samples = (await lines()).slice(1);
    assert.equal(samples.length, 501);
    assert.equal(samples.at(-1), 'requests_total{otel_metric_overflow="true"} 100');
  });
});

test("an up-down counter falls, and is shown as a gauge", async () => {
  const { meter, lines } = taking();
  const running = meter.createUpDownCounter("dynamos.admission.running");
  running.add(3);
  running.add(-2);
  assert.deepEqual(await lines(), ["# TYPE dynamos_admission_running gauge", "dynamos_admission_running 1"]);
});

test("a histogram has cumulative buckets, sum and count, and the unit in its name", async () => {
  const { meter, lines } = taking();
  const options = { unit: "s", advice: { explicitBucketBoundaries: [0.1, 1] } };
  const duration = meter.createHistogram("http.server.request.duration", options);
  for (const seconds of [0.05, 0.1, 0.5, 30]) duration.record(seconds, { route: "/a" });
  assert.deepEqual(await lines(), [
    "# TYPE http_server_request_duration_seconds histogram",
    'http_server_request_duration_seconds_bucket{route="/a",le="0.1"} 2',
    'http_server_request_duration_seconds_bucket{route="/a",le="1"} 3',
    'http_server_request_duration_seconds_bucket{route="/a",le="+Inf"} 4',
    'http_server_request_duration_seconds_sum{route="/a"} 30.65',
    'http_server_request_duration_seconds_count{route="/a"} 4',
  ]);
});

test("labels are escaped as the text format says", async () => {
  const { meter, lines } = taking();
  meter.createGauge("depth").record(1, { "queue.name": 'a\\b"c\nd' });
  assert.deepEqual((await lines()).slice(1), ['depth{queue_name="a\\\\b\\"c\\nd"} 1']);
});

describe("an observable", () => {
  test("is asked at each collection, and forgets what it no longer tells", async () => {
    const { meter, lines } = taking();
    let queues = ["a", "b"];
    const depth = meter.createObservableGauge("depth");
    depth.addCallback((result) => queues.forEach((queue, index) => result.observe(index, { queue })));
    assert.deepEqual((await lines()).slice(1), ['depth{queue="a"} 0', 'depth{queue="b"} 1']);
    queues = ["b"];
    assert.deepEqual((await lines()).slice(1), ['depth{queue="b"} 0']);
  });

  test("that fails or hangs leaves a gap, for itself alone, and is not asked again while it hangs", async () => {
    const { meter, lines } = taking();
    const up = meter.createObservableGauge("up");
    let asked = 0;
    let fails = false;
    let letGo = (): void => {};
    up.addCallback((result) => result.observe(1, { part: "well" }));
    up.addCallback(async (result) => {
      result.observe(1, { part: "failing" });
      if (fails) throw new Error("away");
    });
    up.addCallback(async (result) => {
      asked++;
      if (fails) await new Promise<void>((resolve) => (letGo = resolve));
      result.observe(1, { part: "hanging" });
    });
    const parts = async () => (await lines(50)).slice(1).map((line) => /part="(\w+)"/.exec(line)?.[1]);
    assert.deepEqual((await parts()).sort(), ["failing", "hanging", "well"]);
    fails = true;
    assert.deepEqual(await parts(), ["well"]);
    assert.deepEqual(await parts(), ["well"]);
    assert.equal(asked, 2);
    fails = false;
    letGo();
    assert.deepEqual((await parts()).sort(), ["failing", "hanging", "well"]);
  });
});
