import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { makeChainShape, makeJobSpec, shapeKey, type ChainShapeInput } from "../../../agent/chains/chain-shape.ts";
import type { Microservice } from "../../../lib/model/microservice.ts";

function microservice(name: string, own: Partial<Microservice> = {}): Microservice {
  return { name, label: "dataProvider", allowedOutputs: [], invalidArchetypes: [], ...own };
}

const INPUT: ChainShapeInput = {
  steward: "VU",
  composition: {
    archetype_id: "computeToData",
    request_type: "sqlDataRequest",
    role: "all",
    data_providers: ["VU"],
  },
  chain: [microservice("reads", { needs: ["data"] }), microservice("computes")],
  memoryLimitMiB: 100,
  programOf: (name) => ["node", `${name}.js`],
  microserviceEnvironment: ({ needs }) => ({ NEEDS: (needs ?? []).join(",") }),
  sidecarEnvironment: { DYNAMOS_BUS: "embedded:/bus.db" },
};

function shapeOf(...chain: Microservice[]) {
  return makeChainShape({ ...INPUT, chain });
}

describe("a job's containers", () => {
  test("run this package's program, or the command given, or what the image itself runs", () => {
    const { microservices } = shapeOf(
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
    const { microservices } = shapeOf(microservice("reads", { needs: ["data"] }), microservice("computes"));
    assert.deepEqual(
      microservices.map(({ environment }) => environment["NEEDS"]),
      ["data", ""],
    );
  });

  test("that would be called the same, or as the sidecar is, make no job", () => {
    assert.throws(() => shapeOf(microservice("a.b"), microservice("a-b")), {
      code: "chain_invalid",
      message: /"a\.b"/,
    });
    assert.throws(() => shapeOf(microservice("Sidecar")), { code: "chain_invalid", message: /the sidecar/ });
  });
});

describe("a chain's shape", () => {
  const key = shapeKey(makeChainShape(INPUT));

  test("is the same for requests that differ in who asks, the approval, the plan's version and the user's data sets", () => {
    const asked = { job_name: "eve-99999999", plan_version: 7, user: { id: "eve", userName: "eve@example.org" } };
    const composition = { ...INPUT.composition, ...asked, data_sets: ["other"] };
    assert.equal(shapeKey(makeChainShape({ ...INPUT, composition })), key);
  });

  test("does not depend on the order in which members were written", () => {
    const composition = {
      data_providers: ["VU"],
      role: "all" as const,
      request_type: "sqlDataRequest",
      archetype_id: "computeToData",
    };
    assert.equal(shapeKey(makeChainShape({ ...INPUT, composition })), key);
  });

  const another: readonly (readonly [string, Partial<ChainShapeInput>])[] = [
    ["another variable of a microservice", { microserviceEnvironment: () => ({ NEEDS: "", LIMIT: "2" }) }],
    ["another variable of the sidecar", { sidecarEnvironment: { DYNAMOS_BUS: "embedded:/other.db" } }],
    ["another program", { programOf: (name) => ["node", `new/${name}.js`] }],
    ["another limit", { memoryLimitMiB: 101 }],
    ["another image", { chain: [microservice("reads", { needs: ["data"], image: "registry.example.org/reads:2" })] }],
    ["another order", { chain: [microservice("computes"), microservice("other")] }],
    ["another role", { composition: { ...INPUT.composition, role: "dataProvider" } }],
    ["another steward", { steward: "UVA" }],
    [
      "another number of data providers",
      { composition: { ...INPUT.composition, role: "computeProvider", data_providers: ["VU", "UVA"] } },
    ],
  ];
  for (const [what, change] of another) {
    test(`is another one with ${what}`, () => {
      assert.notEqual(shapeKey(makeChainShape({ ...INPUT, ...change })), key);
    });
  }

  test("has nothing in a job's environment that stands in neither the shape nor the job's own name", () => {
    const shape = makeChainShape(INPUT);
    const spec = makeJobSpec(shape, { name: "warm-0a1b2c3d-vu-1", instance: "1a2b3c4d", deadlineMs: 5 });
    assert.deepEqual(
      spec.microservices.map(({ environment }) => environment),
      shape.microservices.map(({ environment }) => environment),
    );
    assert.deepEqual(spec.sidecar.environment, {
      DYNAMOS_BUS: "embedded:/bus.db",
      DYNAMOS_RUN_NAME: "warm-0a1b2c3d-vu-1",
    });
    assert.equal(spec.chain.jobName, `chain-${key}`);
  });

  test("gives data to a first microservice, and is refused where a later one needs them", () => {
    assert.throws(() => shapeOf(microservice("first"), microservice("late", { needs: ["data"] })), {
      code: "chain_invalid",
      message: /late needs data/,
    });
  });
});
