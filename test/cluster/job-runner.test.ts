/** Runs the job runners' contract on a real cluster, with an agent's own rights. */
import assert from "node:assert/strict";
import { after, describe, test } from "node:test";
import { jobRunnerContract } from "../contract/job-runner.contract.ts";
import { clusterContainer, makeClusterJobs, runsOnCluster } from "../support/cluster-jobs.ts";
import { noCluster } from "../support/cluster-tools.ts";

const skip = await noCluster();
if (skip) {
  describe("job runner: Kubernetes", () => test("the contract", { skip }, () => undefined));
} else {
  const jobs = await makeClusterJobs();
  after(async () => {
    await jobs.remove();
    assert.deepEqual(jobs.reported, []);
  });

  jobRunnerContract("Kubernetes", async () => ({
    steward: "VU",
    open: () => jobs.open(),
    container: clusterContainer,
    missing: (name) => ({ ...clusterContainer(name, ""), command: ["/no/such/program"] }),
    isRunning: (jobName) => runsOnCluster(jobs.namespace, jobName),
  }));
}
