/** One run of the tests under `test/cluster`: what its files share, and what must not be left of it. */
import { newSuffix, namespacesOf, removeNamespaces } from "./cluster-namespaces.ts";
import { clusterReport } from "./cluster-report.ts";

export { noCluster } from "./cluster-tools.ts";

/** See the file comment. */
export interface ClusterRun {
  /** For the test files. */
  readonly environment: Readonly<Record<string, string>>;
  /** What is there now, for whoever reads of a failure. */
  report(): Promise<string>;
  /** Removes whatever is left; resolves with what could not be removed. */
  end(): Promise<readonly string[]>;
}

/** Begins a run: nothing is installed yet; the first file that needs it does that. */
export function beginClusterRun(): ClusterRun {
  const suffix = process.env["DYNAMOS_TEST_RUN"] || newSuffix();
  return {
    environment: { DYNAMOS_TEST_CLUSTER: "ready", DYNAMOS_TEST_RUN: suffix },
    report: () => clusterReport(suffix),
    end: async () => {
      const fault = await removeNamespaces(suffix).then(
        () => undefined,
        (error: unknown) => String(error),
      );
      const left = await namespacesOf(suffix);
      return [
        ...(fault === undefined ? [] : [`the end of the cluster run: ${fault}`]),
        ...left.map((name) => `namespace ${name} is left`),
      ];
    },
  };
}
