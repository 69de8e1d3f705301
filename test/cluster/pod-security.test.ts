/** Pods of the system: all of them meet the profile "restricted", which is enforced, and chains get what they need and no more. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { assertNoChainLeft, runningChainPod } from "../support/cluster-chains.ts";
import { clusterInstallation } from "../support/cluster-installation.ts";
import { restrictedPod } from "../support/cluster-probes.ts";
import { askUntilAnswered, slowRequest } from "../support/cluster-questions.ts";
import { kubectlJson, noCluster, runProgram } from "../support/cluster-tools.ts";

const STEPS = 12_000_000;
const CREDENTIALS = "/etc/dynamos/credentials";
const skip = await noCluster();

if (skip !== false) test("the security of pods", { skip });
else {
  const installation = await clusterInstallation();
  const { core, namespaceOf, client } = installation;
  const VU = namespaceOf("VU");
  const namespaces = { "the core": core, VU, UVA: namespaceOf("UVA"), SURF: namespaceOf("SURF") };

  for (const [who, namespace] of Object.entries(namespaces)) {
    test(`a privileged pod is refused in the namespace of ${who}`, async () => {
      const pod = restrictedPod("privileged", {});
      Object.assign(pod.spec.containers[0] ?? {}, { securityContext: { privileged: true } });
      const created = await runProgram("kubectl", ["create", "-n", namespace, "-f", "-"], {
        input: JSON.stringify(pod),
      });
      assert.notEqual(created.code, 0);
      assert.match(created.stderr, /violates PodSecurity "restricted/);
    });

    test(`every container in the namespace of ${who} is its own user's, without capabilities, on a root that cannot be written`, async () => {
      const { items } = await kubectlJson<{ readonly items: readonly Pod[] }>(["get", "pods", "-n", namespace]);
      assert.ok(items.length > 0);
      for (const pod of items) assertHardened(pod);
    });
  }

  describe("a chain's pod", async () => {
    const answer = askUntilAnswered(client, slowRequest(STEPS, ["VU"]));
    answer.catch(() => undefined);
    const name = await runningChainPod(installation, "VU");
    const chain = await kubectlJson<Pod>(["get", "pod", name, "-n", VU]);

    test("has no token of a service account", () => {
      assert.equal(chain.spec.automountServiceAccountToken, false);
      const mounts = containersOf(chain).flatMap(({ volumeMounts = [] }) =>
        volumeMounts.map((mount) => mount.mountPath),
      );
      assert.deepEqual(
        mounts.filter((path) => path.includes("serviceaccount")),
        [],
      );
    });

    test("is hardened as all others", () => assertHardened(chain));

    test("gives the credentials of the bus to its sidecar alone", () => {
      for (const { name: container, volumeMounts = [] } of containersOf(chain)) {
        const hasThem = volumeMounts.some(({ mountPath }) => mountPath.startsWith(CREDENTIALS));
        assert.equal(hasThem, container === "sidecar", container);
      }
    });

    test("holds no password in its environment", () => {
      for (const { name: container, env = [] } of containersOf(chain)) {
        for (const { name: variable, value = "", valueFrom } of env) {
          assert.doesNotMatch(value, /:[^/@]+@/, `${container} ${variable}`);
          assert.equal(valueFrom?.secretKeyRef, undefined, `${container} ${variable}`);
        }
      }
    });

    test("says for each container what it may use", () => {
      for (const { name: container, resources } of containersOf(chain)) {
        assert.ok(resources?.requests?.["memory"], `${container} requests memory`);
        assert.ok(resources.limits?.["memory"], `${container} has a memory limit`);
      }
    });

    test("goes when its question is answered", async () => {
      await answer;
      await assertNoChainLeft(installation, "VU");
    });
  });
}

interface Container {
  readonly name: string;
  readonly securityContext?: {
    readonly allowPrivilegeEscalation?: boolean;
    readonly readOnlyRootFilesystem?: boolean;
    readonly runAsNonRoot?: boolean;
    readonly capabilities?: { readonly drop?: readonly string[]; readonly add?: readonly string[] };
    readonly seccompProfile?: { readonly type: string };
  };
  readonly resources?: {
    readonly requests?: Readonly<Record<string, string>>;
    readonly limits?: Readonly<Record<string, string>>;
  };
  readonly volumeMounts?: readonly { readonly mountPath: string }[];
  readonly env?: readonly {
    readonly name: string;
    readonly value?: string;
    readonly valueFrom?: { readonly secretKeyRef?: object };
  }[];
}

interface Pod {
  readonly metadata: { readonly name: string; readonly labels?: Readonly<Record<string, string>> };
  readonly spec: {
    readonly automountServiceAccountToken?: boolean;
    readonly containers: readonly Container[];
    readonly initContainers?: readonly Container[];
    readonly securityContext?: {
      readonly runAsNonRoot?: boolean;
      readonly seccompProfile?: { readonly type: string };
    };
  };
}

function containersOf({ spec }: Pod): readonly Container[] {
  return [...(spec.initContainers ?? []), ...spec.containers];
}

function assertHardened(pod: Pod): void {
  for (const { name, securityContext = {} } of containersOf(pod)) {
    const who = `${pod.metadata.name}/${name}`;
    const whole = pod.spec.securityContext ?? {};
    assert.equal(securityContext.allowPrivilegeEscalation, false, who);
    assert.deepEqual(securityContext.capabilities?.drop, ["ALL"], who);
    assert.deepEqual(securityContext.capabilities.add ?? [], [], who);
    assert.equal(securityContext.runAsNonRoot ?? whole.runAsNonRoot, true, who);
    assert.equal((securityContext.seccompProfile ?? whole.seccompProfile)?.type, "RuntimeDefault", who);
    assert.equal(securityContext.readOnlyRootFilesystem, true, who);
  }
}
