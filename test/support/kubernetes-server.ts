/** A server that speaks as much of Kubernetes' API as a test wants, over plain HTTP on this machine, and a kubeconfig for it. */
import { once } from "node:events";
import { writeFile } from "node:fs/promises";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import type { TestContext } from "node:test";
import { temporaryFolder } from "./temporary-folder.ts";

/** What a test got. */
export interface KubernetesServer {
  readonly kubeconfig: string;
  /** The file with the token, as a pod has it: it may be rotated. */
  readonly tokenFile: string;
}

/** Starts it; after the test it is gone. */
export async function kubernetesServer(
  context: TestContext,
  answer: (request: IncomingMessage, response: ServerResponse) => void,
): Promise<KubernetesServer> {
  const server = createServer(answer).listen(0, "127.0.0.1");
  await once(server, "listening");
  context.after(() => {
    server.closeAllConnections();
    server.close();
  });
  const folder = await temporaryFolder();
  const [kubeconfig, tokenFile] = [join(folder, "kubeconfig.json"), join(folder, "token")];
  await writeFile(tokenFile, "first");
  const url = `http://127.0.0.1:${String((server.address() as AddressInfo).port)}`;
  const config = {
    apiVersion: "v1",
    kind: "Config",
    clusters: [{ name: "c", cluster: { server: url, "insecure-skip-tls-verify": true } }],
    users: [{ name: "u", user: { "auth-provider": { name: "tokenFile", config: { tokenFile } } } }],
    contexts: [{ name: "x", context: { cluster: "c", user: "u", namespace: "vu" } }],
    "current-context": "x",
  };
  await writeFile(kubeconfig, JSON.stringify(config));
  return { kubeconfig, tokenFile };
}

/** Answers with JSON. */
export function answerJson(response: ServerResponse, status: number, body: object): void {
  response.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify(body));
}
