/**
 * A Service of the cluster as a port of this machine, for as long as a test needs it: each connection goes to one of the Service's
 * ready pods, so a pod that ends takes no more than its own connections with it. (`kubectl port-forward` stays with one pod.)
 */
import { createServer, type AddressInfo, type Server, type Socket } from "node:net";
import { PassThrough } from "node:stream";
import { CoreV1Api, DiscoveryV1Api, KubeConfig, PortForward } from "@kubernetes/client-node";

/** A port that leads to a Service or a pod. */
export interface Forward {
  readonly port: number;
  close(): Promise<void>;
}

/** The WebSocket that the client's library gives, whose types it does not bring. */
interface Tunnel {
  onclose: () => void;
  onerror: () => void;
  close(): void;
}

interface Target {
  readonly pod: string;
  readonly port: number;
}

/** Opens a port to a Service: to its ready pods, one after the other. */
export async function forwardService(namespace: string, service: string, portName?: string): Promise<Forward> {
  const config = clusterConfig();
  const slices = config.makeApiClient(DiscoveryV1Api);
  let turn = 0;
  return open(config, namespace, async () => {
    const { items } = await slices.listNamespacedEndpointSlice({
      namespace,
      labelSelector: `kubernetes.io/service-name=${service}`,
    });
    const targets = items.flatMap(({ endpoints, ports = [] }) => {
      const port = ports.find(({ name }) => portName === undefined || name === portName)?.port;
      const ready = (endpoints ?? []).filter(({ conditions }) => conditions?.ready === true);
      return port === undefined ? [] : ready.map(({ targetRef }): Target => ({ pod: targetRef?.name ?? "", port }));
    });
    targets.sort((one, other) => one.pod.localeCompare(other.pod));
    return targets[turn++ % Math.max(1, targets.length)];
  });
}

/** Opens a port to one pod. */
export async function forwardPod(namespace: string, pod: string, port: number): Promise<Forward> {
  return open(clusterConfig(), namespace, async () => ({ pod, port }));
}

/** What `KUBECONFIG` names. */
export function clusterConfig(): KubeConfig {
  const config = new KubeConfig();
  config.loadFromDefault();
  return config;
}

/** The core API of what `KUBECONFIG` names. */
export function coreApi(): CoreV1Api {
  return clusterConfig().makeApiClient(CoreV1Api);
}

async function open(
  config: KubeConfig,
  namespace: string,
  target: () => Promise<Target | undefined>,
): Promise<Forward> {
  const sockets = new Set<Socket>();
  const server: Server = createServer((socket) => {
    sockets.add(socket);
    socket.once("close", () => sockets.delete(socket));
    // A broken connection is what a killed pod's client sees, too.
    socket.on("error", () => socket.destroy());
    connect(config, namespace, target, socket).catch(() => socket.destroy());
  });
  await new Promise<void>((resolve, reject) => server.once("error", reject).listen(0, "127.0.0.1", resolve));
  return {
    port: (server.address() as AddressInfo).port,
    close: async () => {
      const closed = new Promise((resolve) => server.close(resolve));
      for (const socket of sockets) socket.destroy();
      await closed;
    },
  };
}

async function connect(
  config: KubeConfig,
  namespace: string,
  target: () => Promise<Target | undefined>,
  socket: Socket,
): Promise<void> {
  socket.pause();
  const found = await target();
  if (found === undefined) return void socket.destroy();
  // The pod's side says here why it cannot connect, and says nothing otherwise.
  const refused = new PassThrough().once("data", () => socket.destroy());
  const forward = new PortForward(config);
  const tunnel = (await forward.portForward(namespace, found.pod, [found.port], socket, refused, socket)) as Tunnel;
  tunnel.onclose = () => socket.end();
  tunnel.onerror = () => socket.destroy();
  socket.once("close", () => tunnel.close());
  socket.resume();
}
