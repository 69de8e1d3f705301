/** Pods that try connections, and connections tried from pods that are there. */
import assert from "node:assert/strict";
import { TEST_IMAGE, apply, kubectl, kubectlJson } from "./cluster-tools.ts";
import { eventually } from "./eventually.ts";

/** Where a connection is tried from. */
export interface Place {
  readonly namespace: string;
  readonly pod: string;
  readonly container: string;
  readonly ip: string;
}

/** Where to. */
export interface Address {
  readonly host: string;
  readonly port: number;
}

const TRY_MS = 2_000;
/** Policies reach a new pod a moment after it has started. */
const SETTLED_MS = 15_000;
/** What a policy makes of a connection, by the network's make. */
const REFUSED = /^(timeout|ECONNREFUSED|EHOSTUNREACH|ENETUNREACH|EACCES|EPERM)$/;
/** Whoever tries it breaks its connection off: that must not end the listener, whose absence would look like a policy. */
const LISTEN = "require('net').createServer((s)=>s.on('error',()=>{}).end('x')).listen(8080,'0.0.0.0')";

/** A pod that meets the profile "restricted". */
export function restrictedPod(name: string, labels: Readonly<Record<string, string>>) {
  return {
    apiVersion: "v1",
    kind: "Pod",
    metadata: { name, labels: { "dynamos.test/probe": name, ...labels } },
    spec: {
      automountServiceAccountToken: false,
      enableServiceLinks: false,
      restartPolicy: "Always",
      terminationGracePeriodSeconds: 0,
      securityContext: { runAsNonRoot: true, runAsUser: 10001, seccompProfile: { type: "RuntimeDefault" } },
      containers: [
        {
          name: "probe",
          image: TEST_IMAGE,
          imagePullPolicy: "IfNotPresent",
          command: ["node", "-e", LISTEN],
          securityContext: {
            allowPrivilegeEscalation: false,
            readOnlyRootFilesystem: true,
            capabilities: { drop: ["ALL"] },
          },
          resources: { requests: { cpu: "10m", memory: "32Mi" }, limits: { memory: "128Mi" } },
        },
      ],
    },
  };
}

/** Starts a pod that listens at port 8080, and from which connections can be tried; it is there until somebody deletes it. */
export async function startProbe(
  namespace: string,
  name: string,
  labels: Readonly<Record<string, string>> = {},
): Promise<Place> {
  const pod = restrictedPod(name, labels);
  await apply({ ...pod, metadata: { ...pod.metadata, namespace } });
  await kubectl(["wait", "pod", name, "-n", namespace, "--for=condition=Ready", "--timeout=60s"]);
  return placeIn(namespace, name, "probe");
}

/** Deletes a probe. */
export async function removeProbe({ namespace, pod }: Place): Promise<void> {
  await kubectl(["delete", "pod", pod, "-n", namespace, "--ignore-not-found", "--grace-period=0", "--force"]);
}

/** A container that runs already, with Node in it. */
export async function placeIn(namespace: string, pod: string, container: string): Promise<Place> {
  const { status } = await kubectlJson<{ readonly status: { readonly podIP: string } }>([
    "get",
    "pod",
    pod,
    "-n",
    namespace,
  ]);
  return { namespace, pod, container, ip: status.podIP };
}

/** Fails unless connections from there to there can be made, or cannot, once the policies have settled. */
export async function assertConnects(from: Place, to: Address, isExpected: boolean): Promise<void> {
  await eventually(
    async () => {
      // One refusal may be a mishap of the network: what is closed is closed twice.
      if (!isExpected) assert.match(await tryConnection(from, to), REFUSED);
      const outcome = await tryConnection(from, to);
      assert.equal(outcome === "connected", isExpected, `${from.pod} to ${to.host}:${String(to.port)}: ${outcome}`);
      return true;
    },
    {
      timeoutMs: SETTLED_MS,
      intervalMs: 500,
      describe: `${from.pod} ${isExpected ? "" : "not "}to connect to ${to.host}`,
    },
  );
}

/** One attempt: `connected`, or why not. A name that cannot be looked up is no answer to the question, and fails. */
async function tryConnection({ namespace, pod, container }: Place, { host, port }: Address): Promise<string> {
  const script = `
    const say = (text) => { process.stdout.write(text); process.exit(0); };
    const socket = require("node:net").connect({ host: ${JSON.stringify(host)}, port: ${String(port)} });
    socket.once("connect", () => say("connected")).once("error", (error) => say(error.code));
    setTimeout(() => say("timeout"), ${String(TRY_MS)});`;
  const outcome = await kubectl(["exec", "-n", namespace, pod, "-c", container, "--", "node", "-e", script]);
  if (/ENOTFOUND|EAI_AGAIN/.test(outcome)) throw new Error(`${pod} cannot look ${host} up: ${outcome}`);
  if (outcome !== "connected" && !REFUSED.test(outcome)) throw new Error(`${pod} says of ${host}: "${outcome}"`);
  return outcome;
}
