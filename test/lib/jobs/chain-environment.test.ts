import assert from "node:assert/strict";
import { test } from "node:test";
import { AppError } from "../../../lib/errors.ts";
import {
  chainEnvironment,
  CLUSTER_CHAIN_PORTS,
  readChainEnvironment,
  readSidecarEnvironment,
  sidecarEnvironment,
} from "../../../lib/jobs/chain-environment.ts";
import type { ContainerSpec, JobSpec } from "../../../lib/jobs/job-runner.ts";

const container = (name: string): ContainerSpec => ({ name, environment: {}, memoryLimitBytes: 1e8 });
const spec: JobSpec = {
  name: "jan-0a1b2c3d-vu-1",
  steward: "VU",
  microservices: [container("sql-query"), container("sql-anonymize"), container("sql-algorithm")],
  sidecar: container("sidecar"),
  deadlineMs: 0,
  labels: {},
  chain: { jobName: "jan-0a1b2c3d", role: "all", dataProviderCount: 2 },
};

test("on the cluster a microservice gets the variables of the contract, ports counted up from 50053", () => {
  assert.deepEqual(chainEnvironment(spec, 1, CLUSTER_CHAIN_PORTS), {
    DATA_STEWARD_NAME: "VU",
    DESIGNATED_GRPC_PORT: "50054",
    FIRST: "0",
    LAST: "0",
    JOB_NAME: "jan-0a1b2c3d",
    SIDECAR_PORT: "50051",
    NR_OF_DATA_PROVIDERS: "2",
    AGENT_ROLE: "all",
  });
});

test("the sidecar gets the port to listen on and the first microservice's", () => {
  assert.deepEqual(sidecarEnvironment(spec, CLUSTER_CHAIN_PORTS), {
    DATA_STEWARD_NAME: "VU",
    JOB_NAME: "jan-0a1b2c3d",
    SIDECAR_PORT: "50051",
    FIRST_MICROSERVICE_PORT: "50053",
    NR_OF_DATA_PROVIDERS: "2",
    AGENT_ROLE: "all",
  });
});

test("each microservice sends to the next one, and the last one to the sidecar", () => {
  const positions = [0, 1, 2].map((index) => readChainEnvironment(chainEnvironment(spec, index, CLUSTER_CHAIN_PORTS)));
  assert.deepEqual(
    positions.map(({ port, nextPort, isFirst, isLast }) => [port, nextPort, isFirst, isLast]),
    [
      [50053, 50054, true, false],
      [50054, 50055, false, false],
      [50055, 50051, false, true],
    ],
  );
});

test("a chain of one microservice is first and last at once", () => {
  const alone = { ...spec, microservices: [container("sql-query")] };
  const position = readChainEnvironment(chainEnvironment(alone, 0, CLUSTER_CHAIN_PORTS));
  assert.deepEqual([position.isFirst, position.isLast, position.nextPort], [true, true, 50051]);
});

test("what the sidecar is given is what it reads", () => {
  assert.deepEqual(
    readSidecarEnvironment(sidecarEnvironment(spec, { sidecarPort: 21000, firstMicroservicePort: 21001 })),
    {
      steward: "VU",
      jobName: "jan-0a1b2c3d",
      role: "all",
      dataProviderCount: 2,
      sidecarPort: 21000,
      firstMicroservicePort: 21001,
    },
  );
});

test("every fault of a chain environment is named at once", () => {
  const faulty = {
    ...chainEnvironment(spec, 0, CLUSTER_CHAIN_PORTS),
    AGENT_ROLE: "boss",
    FIRST: "yes",
    SIDECAR_PORT: "0",
  };
  delete (faulty as Record<string, string>)["JOB_NAME"];
  assert.throws(
    () => readChainEnvironment(faulty),
    (error: unknown) => {
      assert.ok(error instanceof AppError);
      assert.equal(error.code, "configuration_invalid");
      const faults = error.details["settings"] as readonly string[];
      assert.deepEqual(
        faults.map((fault) => fault.split(":")[0]),
        ["JOB_NAME", "AGENT_ROLE", "SIDECAR_PORT", "FIRST"],
      );
      assert.match(error.message, /JOB_NAME: missing.*computeProvider.*1 or 0/);
      return true;
    },
  );
});
