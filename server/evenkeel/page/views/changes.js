// The change log: administrators' changes, newest first.

import { poll, read } from '../lib/api.js';
import { h } from '../lib/dom.js';
import { current } from '../lib/router.js';
import { PAGE_SIZE, dataTable, pager, text } from '../lib/table.js';
import { empty, section, timeOf, viewHeading } from '../lib/ui.js';

const WHAT = {
  'quota.set': 'set a quota', 'quota.adjust': 'adjusted a quota', 'quota.delete': 'deleted a record', 'override.set': 'set an override',
  'override.delete': 'removed an override', 'endpoint.drain': 'drained an endpoint', 'endpoint.undrain': 'undrained an endpoint',
};

export function create() {
  const part = section('Change log', { wide: true, note: 'The newest 1000; the sidecars\u2019 logs have them all.' });
  const table = dataTable({
    caption: 'Changes, newest first', key: (c) => c.key, emptyState: empty('No changes yet.', 'evenkeel quota set alice 100000 --note "trial"'),
    columns: [
      { title: 'When', make: (td) => {
        const time = timeOf();
        td.append(time.element);
        return (c) => time.set(c.at_ms);
      } },
      { title: 'Who', head: true, make: text((c) => c.who) },
      { title: 'What', make: text((c) => WHAT[c.what] ?? c.what, (c) => c.what) },
      { title: 'To what', make: text((c) => c.target) },
      { title: 'Before', make: text((c) => c.before || '–') },
      { title: 'After', make: text((c) => c.after || '–') },
      { title: 'Why', make: text((c) => c.note || '–') },
    ],
  });
  const pages = pager('changes');
  part.body.append(table.element, pages.element);
  const take = (data) => {
    part.fail(null);
    // Two identical changes can happen in one millisecond, so number them.
    const seen = new Map();
    table.set(data.changes.map((c) => {
      const same = `${c.at_ms}/${c.who}/${c.what}/${c.target}/${c.after}`;
      seen.set(same, (seen.get(same) ?? 0) + 1);
      return { ...c, key: `${same}/${seen.get(same)}` };
    }));
    pages.set(data.changes.length, undefined, data.next_page_token);
  };
  const polled = poll((signal) => read('changes', { page_size: PAGE_SIZE, page_token: current().params.page }, signal), take, part.fail, () => 3000);
  return {
    title: 'Changes', watch: () => ({}), refresh: polled.refresh, update: polled.refresh, destroy: polled.stop,
    element: h('div', { class: 'view' }, h('header', { class: 'view-head' }, viewHeading('Changes'), h('p', { class: 'lead', text: 'What administrators changed: the state before and after.' })), part.element),
  };
}
