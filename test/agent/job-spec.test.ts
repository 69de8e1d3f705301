import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { makeJobSpec } from "../../agent/job-spec.ts";
import type { Microservice } from "../../lib/model/microservice.ts";

function microservice(name: string, own: Partial<Microservice> = {}): Microservice {
  return { name, label: "dataProvider", allowedOutputs: [], invalidArchetypes: [], ...own };
}

function specOf(...chain: Microservice[]) {
  return makeJobSpec({
    runName: "ada-1f2e3d4c-vu-0-1",
    steward: "VU",
    instance: "1a2b3c4d",
    composition: {
      archetype_id: "computeToData",
      request_type: "sqlDataRequest",
      role: "all",
      user: { id: "ada", userName: "ada@example.org" },
      data_providers: ["VU"],
      destination_queue: "VU-in",
      job_name: "ada-1f2e3d4c",
      local_job_name: "ada-1f2e3d4c-vu",
      data_sets: ["wageGap"],
      plan_version: 1,
    },
    chain,
    deadlineMs: 1,
    memoryLimitMiB: 100,
    programOf: (name) => ["node", `${name}.js`],
    microserviceEnvironment: ({ needs }) => ({ NEEDS: (needs ?? []).join(",") }),
    sidecarEnvironment: {},
  });
}

describe("a job's containers", () => {
  test("run this package's program, or the command given, or what the image itself runs", () => {
    const { microservices } = specOf(
      microservice("own"),
      microservice("told", { image: "registry.example.org/told", command: ["python", "told.py"] }),
      microservice("image", { image: "registry.example.org/image" }),
    );
    assert.deepEqual(
      microservices.map(({ command }) => command),
      [["node", "own.js"], ["python", "told.py"], undefined],
    );
  });

  test("each get the environment of their own needs", () => {
    const { microservices } = specOf(microservice("reads", { needs: ["data"] }), microservice("computes"));
    assert.deepEqual(
      microservices.map(({ environment }) => environment["NEEDS"]),
      ["data", ""],
    );
  });

  test("that would be called the same, or as the sidecar is, make no job", () => {
    assert.throws(() => specOf(microservice("a.b"), microservice("a-b")), { code: "chain_invalid", message: /"a\.b"/ });
    assert.throws(() => specOf(microservice("Sidecar")), { code: "chain_invalid", message: /the sidecar/ });
  });
});
