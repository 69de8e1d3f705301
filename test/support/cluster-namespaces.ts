/**
 * Namespaces of tests: with a suffix of their run, so that runs may share a cluster; labelled, so that a run's end finds what is
 * left of it; and with Pod Security "restricted" enforced, as every namespace of the system has it.
 */
import { randomBytes } from "node:crypto";
import { apply, kubectl, kubectlJson } from "./cluster-tools.ts";

/** Label of every namespace of a run; its value is the run's suffix. */
export const RUN_LABEL = "dynamos.test/run";

/** Names begin so; on a cluster that is shared by rules, `DYNAMOS_TEST_NAMESPACES` names another beginning. */
const PREFIX = process.env["DYNAMOS_TEST_NAMESPACES"] || "dynamos-test";
const REMOVAL_MS = 120_000;

/** A suffix that no other run has. */
export function newSuffix(): string {
  return randomBytes(3).toString("hex");
}

/** The namespace of a run for one purpose, such as `vu`. */
export function namespaceName(suffix: string, purpose: string): string {
  return `${PREFIX}-${suffix}-${purpose}`;
}

/** Makes namespaces of a run; there already: harmless. */
export async function makeNamespaces(suffix: string, ...purposes: readonly string[]): Promise<void> {
  await apply(
    ...purposes.map((purpose) => ({
      apiVersion: "v1",
      kind: "Namespace",
      metadata: {
        name: namespaceName(suffix, purpose),
        labels: {
          [RUN_LABEL]: suffix,
          "pod-security.kubernetes.io/enforce": "restricted",
          "pod-security.kubernetes.io/enforce-version": "latest",
        },
      },
    })),
  );
}

/** Removes namespaces of a run with all that is in them, and waits until they are gone; without purposes all of the run. */
export async function removeNamespaces(suffix: string, ...purposes: readonly string[]): Promise<void> {
  const which =
    purposes.length === 0
      ? ["-l", `${RUN_LABEL}=${suffix}`]
      : purposes.map((purpose) => namespaceName(suffix, purpose));
  await kubectl(
    ["delete", "namespace", ...which, "--ignore-not-found", "--wait", `--timeout=${String(REMOVAL_MS)}ms`],
    {
      timeoutMs: REMOVAL_MS + 10_000,
    },
  );
}

/** The namespaces that a run has now. */
export async function namespacesOf(suffix: string): Promise<readonly string[]> {
  const { items } = await kubectlJson<{ readonly items: readonly { readonly metadata: { readonly name: string } }[] }>([
    "get",
    "namespaces",
    "-l",
    `${RUN_LABEL}=${suffix}`,
  ]);
  return items.map(({ metadata }) => metadata.name);
}
