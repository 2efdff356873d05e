/**
 * X.509 name constraints (RFC 5280, 4.2.1.10): the names that an authority may vouch for. Host names count with all
 * names below them; addresses are CIDR ranges.
 */
import 'reflect-metadata';
import { AsnConvert } from '@peculiar/asn1-schema';
import {
  GeneralName,
  GeneralSubtree,
  GeneralSubtrees,
  NameConstraints,
  id_ce_nameConstraints,
} from '@peculiar/asn1-x509';
import * as x509 from '@peculiar/x509';

export interface PermittedNames {
  dns: readonly string[];
  ip: readonly string[];
}

/** Critical, so that a client that does not know name constraints takes no certificate of the authority. */
export function nameConstraintsExtension({ dns, ip }: PermittedNames): x509.Extension {
  const names = [...dns.map((dNSName) => ({ dNSName })), ...ip.map((iPAddress) => ({ iPAddress }))];
  const permittedSubtrees = new GeneralSubtrees(
    names.map((name) => new GeneralSubtree({ base: new GeneralName(name) })),
  );
  return new x509.Extension(
    id_ce_nameConstraints,
    true,
    AsnConvert.serialize(new NameConstraints({ permittedSubtrees })),
  );
}

/** Undefined when host names or addresses are not limited, or clients may ignore that they are. */
export function permittedNames(pem: string): PermittedNames | undefined {
  const extension = new x509.X509Certificate(pem).getExtension(id_ce_nameConstraints);
  if (!extension?.critical) return undefined;
  const { permittedSubtrees = [] } = AsnConvert.parse(extension.value, NameConstraints);
  const bases = permittedSubtrees.map(({ base }) => base);
  const dns = bases.flatMap(({ dNSName }) => dNSName ?? []);
  const ip = bases.flatMap(({ iPAddress }) => iPAddress ?? []);
  return dns.length > 0 && ip.length > 0 ? { dns, ip } : undefined;
}
