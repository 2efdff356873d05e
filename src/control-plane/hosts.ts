/**
 * Names and addresses that the API hands out: `<endpoint id>.<domain>`, pooled `<endpoint id>-pooler.<domain>`.
 *
 * A port other than 5432 is part of every host that is shown, because clients put hosts into URIs as they are.
 * A URI must work on the machine as it is. For the domain `localhost` it therefore names the endpoint
 * in `options`, which also drivers that speak without TLS (and so without SNI) send; it asks for no TLS, whose
 * certificate nothing there trusts; and its host is plain `localhost` where `*.localhost` does not resolve.
 */
import type { ControlPlaneConfig } from './context.ts';

const DEFAULT_PORT = 5432;

export interface ConnectionTarget {
  endpointId: string;
  role: string;
  password: string;
  database: string;
  pooled: boolean;
}

export function isLoopbackDomain(domain: string): boolean {
  return domain === 'localhost';
}

/** Host without the endpoint's label. */
export function proxyHost(config: ControlPlaneConfig): string {
  return withPort(config, config.domain);
}

export function endpointHost(config: ControlPlaneConfig, endpointId: string): string {
  return withPort(config, `${endpointId}.${config.domain}`);
}

export function poolerHost(config: ControlPlaneConfig, endpointId: string): string {
  return endpointHost(config, `${endpointId}-pooler`);
}

export function connectionUri(config: ControlPlaneConfig, target: ConnectionTarget): string {
  const label = target.pooled ? `${target.endpointId}-pooler` : target.endpointId;
  const user = `${encodeURIComponent(target.role)}:${encodeURIComponent(target.password)}`;
  const database = encodeURIComponent(target.database);
  if (!isLoopbackDomain(config.domain)) {
    return `postgresql://${user}@${endpointHost(config, label)}/${database}?sslmode=require&channel_binding=require`;
  }
  const host = config.namesResolve ? endpointHost(config, label) : withPort(config, 'localhost');
  return `postgresql://${user}@${host}/${database}?options=endpoint%3D${label}`;
}

function withPort(config: ControlPlaneConfig, host: string): string {
  return config.pgPort === DEFAULT_PORT ? host : `${host}:${config.pgPort}`;
}
